"""A plan in words, in 80 columns."""

from collections.abc import Sequence

from imagen_jax.core import files
from imagen_jax.plan import chips
from imagen_jax.plan import estimate as estimate_lib

_WIDTH = 80


def text(facts: estimate_lib.Facts, found: estimate_lib.Estimate) -> str:
  """All that is known of one program."""
  where = chips.topology(facts.topology)
  mesh = ", ".join(f"{axis} {n}" for axis, n in facts.mesh.items() if n > 1)
  head = (
    f"{facts.program} step on {facts.topology}, {where.count} chips"
    f" ({mesh or 'one'}), batch {facts.batch_size}"
  )
  if facts.program != "encode":
    head += f", remat {facts.remat}"
  if facts.micro_batches > 1:
    head += f", {facts.micro_batches} micro-batches"
  lines = [head, "-" * min(len(head), _WIDTH)]
  if facts.compiled is None and facts.too_large is None:
    lines.append("estimated from shapes, nothing was compiled")
  lines += [*_memory(facts, found), *_work(facts, found)]
  lines += [*_network(facts), *_time(facts, found)]
  tips = estimate_lib.advice(facts, found)
  if tips:
    lines += ["what may help:", *(f"  - {tip}" for tip in tips)]
  return "\n".join(lines)


def ranking(
  rows: Sequence[tuple[estimate_lib.Facts, estimate_lib.Estimate]],
) -> str:
  """One line a candidate, the fastest that fits first."""
  lines = [
    f"{'':>3} {'data':>5} {'fsdp':>5} {'tensor':>6} {'remat':>7} {'parts':>5}"
    f" {'bytes a chip':>13} {'s a step':>9} {'bound':>8} {'MFU':>6}"
  ]
  for i, (facts, found) in enumerate(ranked(rows), 1):
    mesh = facts.mesh
    told = "does not fit" if not found.fits else f"{found.mfu:6.1%}"
    speed = f"{found.step_seconds:9.3f} {found.bound:>8}" if found.fits else ""
    lines.append(
      f"{i:>3} {mesh['data']:>5} {mesh['fsdp']:>5} {mesh['tensor']:>6}"
      f" {facts.remat:>7} {facts.micro_batches:>5}"
      f" {files.size_text(found.total_bytes):>13} {speed} {told}"
    )
  return "\n".join(lines)


def ranked(
  rows: Sequence[tuple[estimate_lib.Facts, estimate_lib.Estimate]],
) -> list[tuple[estimate_lib.Facts, estimate_lib.Estimate]]:
  """Those that fit by time, then the others by what they need."""
  return sorted(
    rows,
    key=lambda row: (
      not row[1].fits,
      row[1].step_seconds if row[1].fits else row[1].total_bytes,
      sum(row[1].seconds.values()),
    ),
  )


def _memory(
  facts: estimate_lib.Facts, found: estimate_lib.Estimate
) -> list[str]:
  share = found.total_bytes / found.hbm_bytes
  lines = [_row("parameters", f"{facts.parameters:,}"), "bytes of a chip"]
  for kind, size in found.bytes.items():
    lines.append(_row(f"  {kind}", files.size_text(size)))
  if facts.too_large:
    lines.append("  (XLA stopped: temporaries do not fit, it names the total)")
  if facts.compiled is None and facts.too_large is None:
    lines.append("  (without temporaries, which only a compiler knows)")
  verdict = "fits" if found.fits else "DOES NOT FIT"
  total = f"{files.size_text(found.total_bytes)} of"
  total += f" {files.size_text(found.hbm_bytes)}, {share:.0%}: {verdict}"
  lines.append(_row("  all", total))
  if facts.compiled is not None:
    for name, size in facts.compiled.largest_arrays:
      lines.append(_row("  a large array", files.size_text(size), name))
  return lines


def _work(facts: estimate_lib.Facts, found: estimate_lib.Estimate) -> list[str]:
  model, compiled = facts.model_flops / 1e12, found.compiled_flops / 1e12
  one = "TFLOP a caption" if facts.program == "encode" else "TFLOP an image"
  head = _row(f"{one}, model", f"{model:.4g}")
  if facts.too_large is not None:
    return [head]
  return [
    head,
    _row(f"{one}, compiled", f"{compiled:.4g}"),
    _row("FLOPs a byte of HBM", f"{found.intensity:.1f}"),
  ]


def _network(facts: estimate_lib.Facts) -> list[str]:
  if (one := facts.compiled) is None:
    return []
  lines = [
    "collectives of a step (count, bytes of whole arrays, sent by each chip)"
  ]
  for row in one.exchanges:
    name = f"  {row.kind} over {row.axes}"
    sizes = files.size_text(row.bytes), files.size_text(row.sent)
    lines.append(f"{name:<38} {row.count:>6} {sizes[0]:>10} {sizes[1]:>10}")
  if one.largest_replicated is not None:
    name, size = one.largest_replicated
    lines.append(
      _row("largest that is on every chip", files.size_text(size), name)
    )
  gathers = one.activation_gathers
  lines.append(_row("gathers of activations", str(len(gathers))))
  return [*lines, *(f"  {name}"[:_WIDTH] for name in gathers[:3])]


def _time(facts: estimate_lib.Facts, found: estimate_lib.Estimate) -> list[str]:
  if facts.too_large is not None:
    return []
  parts = " ".join(f"{k} {s:.3g}" for k, s in found.seconds.items())
  run = f"{found.days:,.2f} days, {found.chip_hours:,.0f} chip-hours"
  if facts.program != "train":
    run = f"{found.days * estimate_lib.DAY:.4g} s for the batch"
  elif found.cost is not None:
    run += f", cost {found.cost:,.2f}"
  encodes = facts.program == "encode"
  what = "captions" if encodes else "images"
  lines = [
    "roofline: all at its best and overlapped; a bound, not a forecast",
    _row("  seconds", parts),
    _row(
      "  a batch" if encodes else "  a step",
      f"{found.step_seconds:.4g} s, bound by {found.bound}",
    ),
    _row(f"  {what} a second", f"{found.images_per_second:,.1f}"),
    _row(
      "  MFU",
      f"{found.mfu:.1%} at most, {found.serial_mfu:.1%} if nothing overlaps",
    ),
  ]
  return lines if encodes else [*lines, _row(f"  {facts.steps:,} steps", run)]


def _row(name: str, value: str, more: str = "") -> str:
  line = f"{name:<30} {value}"
  return f"{line}  {more}"[:_WIDTH] if more else line
