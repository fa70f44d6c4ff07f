"""From what a compiler says of a program: does it fit, and how fast is it.

  bytes    arguments + outputs that are not arguments' memory + temporaries
           + code, against the HBM of a chip
  step     max(compute, memory, network), as if each ran at its best and hid the
           two others:
             compute  the larger of compiled and model FLOPs / peak: XLA leaves
                      out what convolutions multiply with padding
             memory   bytes read from HBM and written to it / its bandwidth
             network  bytes sent / link, one ring at a time
  MFU      model FLOPs of the batch / (step * chips * peak)

If nothing overlapped, a step would take the sum of the three, `serial_mfu`; the
truth lies between. Data, checkpoints and units of a chip that are not full are
left out of both. Where nothing was compiled (GPUs, on a machine without one)
FLOPs are the model's, a third more with remat "blocks" and two with "full", as
each is one forward pass more; memory is the state, read and
written once; the network gathers bfloat16 parameters twice and scatters
gradients once, for each micro-batch. Temporaries are then unknown.
"""

from typing import NamedTuple

from imagen_jax.plan import chips

DAY = 86400.0
_AGAIN = {"none": 0, "blocks": 1, "full": 2}  # forward passes of a gradient


class Exchange(NamedTuple):
  """Collectives of one kind along the same axes, in one run."""

  kind: str
  axes: str  # "fsdp", "data+fsdp"
  count: int
  bytes: int  # of whole arrays
  sent: float  # by each chip


class Compiled(NamedTuple):
  """What the compiler says of one chip's program."""

  argument_bytes: int
  output_bytes: int
  alias_bytes: int  # outputs in the memory of arguments
  temporary_bytes: int
  code_bytes: int
  flops: float  # as XLA counts them; of loops see plan/products.py
  traffic_bytes: float  # of HBM; see plan/traffic.py
  exchanges: tuple[Exchange, ...]
  largest_replicated: tuple[str, int] | None  # (name, bytes)
  activation_gathers: tuple[str, ...]
  largest_arrays: tuple[tuple[str, int], ...]
  seconds: float  # to compile


class Facts(NamedTuple):
  """One program on one slice, from shapes and, if it compiles, a compiler."""

  program: str  # one step, "train" or "sample", or "encode", one batch
  topology: str
  mesh: dict[str, int]
  batch_size: int  # of images, or of captions
  remat: str
  micro_batches: int
  steps: int  # of training, or of sampling
  parameters: int
  held: dict[str, int]  # bytes of a chip by kind: params, EMA, optimizer, batch
  model_flops: float  # of an image or a caption
  compiled: Compiled | None = None
  too_large: int | None = None  # bytes it needs, where XLA refuses it


class Estimate(NamedTuple):
  """What follows for one chip, and for all."""

  bytes: dict[str, int]  # by kind
  total_bytes: int
  hbm_bytes: float
  fits: bool
  compiled_flops: float  # of an image
  intensity: float  # FLOPs for each byte of HBM
  seconds: dict[str, float]  # compute, memory, network
  step_seconds: float
  bound: str  # which of the three
  mfu: float  # at most
  serial_mfu: float  # where nothing overlaps
  images_per_second: float
  days: float  # of all steps
  chip_hours: float
  cost: float | None


def estimate(facts: Facts, *, price: float | None = None) -> Estimate:
  """Of one program; `price` is of a chip for an hour."""
  where = chips.topology(facts.topology)
  held = _bytes(facts)
  total = facts.too_large or sum(held.values())
  counted, accessed, sent = _work(facts, where.count)
  model = facts.model_flops * facts.batch_size / where.count
  seconds = {
    "compute": max(counted, model) / where.chip.peak,
    "memory": accessed / where.chip.bandwidth,
    "network": sent / where.chip.link,
  }
  bound = max(seconds, key=seconds.__getitem__)
  step = seconds[bound]
  days = facts.steps * step / DAY
  hours = days * 24 * where.count
  return Estimate(
    bytes=held,
    total_bytes=total,
    hbm_bytes=where.chip.hbm,
    fits=facts.too_large is None and total <= where.chip.hbm,
    compiled_flops=counted * where.count / facts.batch_size,
    intensity=counted / accessed,
    seconds=seconds,
    step_seconds=step,
    bound=bound,
    mfu=model / (step * where.chip.peak),
    serial_mfu=model / (sum(seconds.values()) * where.chip.peak),
    images_per_second=facts.batch_size / step,
    days=days,
    chip_hours=hours,
    cost=None if price is None else hours * price,
  )


def advice(facts: Facts, found: Estimate) -> list[str]:
  """What to change where a program does not fit, the cheapest first."""
  if found.fits:
    return []
  state = sum(facts.held.values())
  data, fsdp = facts.mesh["data"], facts.mesh["fsdp"]
  lines = []
  if facts.program == "train" and facts.remat != "full":
    more = {"none": "blocks", "blocks": "full"}[facts.remat]
    lines.append(
      "recompute more, for a third of the model's FLOPs:"
      f" --config.stage.fields.remat={more}"
    )
  if state > 0.3 * found.hbm_bytes and data % 2 == 0:
    lines.append(
      f"cut the state finer, it is {state / found.total_bytes:.0%} of what is"
      f" needed: --config.mesh.fsdp={2 * fsdp}"
    )
  rows = facts.batch_size // (data * fsdp * facts.micro_batches)
  if facts.program == "train" and rows % 2 == 0:
    lines.append(
      "compute the batch in parts:"
      f" --config.train.micro_batches={2 * facts.micro_batches}"
    )
  lines.append(
    f"a smaller batch, --config.train.batch_size={facts.batch_size // 2}, or"
    " more chips"
    if facts.program == "train"
    else "more chips, or fewer at once: --sample_batch"
  )
  return lines


def _bytes(facts: Facts) -> dict[str, int]:
  held = dict(facts.held)
  if (one := facts.compiled) is None:
    return held
  held["padding, rest"] = one.argument_bytes - sum(facts.held.values())
  held["new outputs"] = one.output_bytes - one.alias_bytes
  held["temporaries"] = one.temporary_bytes
  held["code"] = one.code_bytes
  return held


def _work(facts: Facts, count: int) -> tuple[float, float, float]:
  """A chip's FLOPs, bytes of HBM and bytes sent, in one step."""
  if (one := facts.compiled) is not None:
    sent = sum((exchange.sent for exchange in one.exchanges), 0.0)
    return one.flops, one.traffic_bytes, sent
  again = 1.0 + (_AGAIN[facts.remat] / 3 if facts.program == "train" else 0)
  flops = again * facts.model_flops * facts.batch_size / count
  accessed = 2.0 * sum(facts.held.values())
  n, data = facts.mesh["fsdp"], facts.mesh["data"]
  passes = 3 if facts.program == "train" else 1
  sent = passes * 2.0 * facts.parameters * (n - 1) / n
  if facts.program == "train":  # each part of the gradients, over `data`
    sent += 2 * 2.0 * facts.parameters / n * (data - 1) / data
  return flops, accessed, sent * facts.micro_batches


def as_json(facts: Facts) -> dict:
  """Plain values, which `from_json` reads."""
  one = facts.compiled
  if one is None:
    return facts._asdict()
  exchanges = [exchange._asdict() for exchange in one.exchanges]
  return facts._asdict() | {
    "compiled": one._asdict() | {"exchanges": exchanges}
  }


def from_json(row: dict) -> Facts:
  """The inverse of `as_json`; TypeError or KeyError if it is of another."""
  facts = Facts(**row)
  if (one := facts.compiled) is None:
    return facts
  name = one["largest_replicated"]
  fields = one | {
    "exchanges": tuple(Exchange(**row) for row in one["exchanges"]),
    "largest_replicated": tuple(name) if name else None,
    "activation_gathers": tuple(one["activation_gathers"]),
    "largest_arrays": tuple(map(tuple, one["largest_arrays"])),
  }
  return facts._replace(compiled=Compiled(**fields))
