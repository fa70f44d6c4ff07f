"""What is wrong with a config of training, before anything is read or compiled.

Here is what shows in the config alone: numbers out of range, choices that are
none, patterns that are no regular expressions. What needs the data, the text
encoder or the network is refused by those, a little later.
"""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath

from imagen_jax.core import errors
from imagen_jax.train import initial, step_folders

# The least that each may be.
_AT_LEAST = {
  "data.max_rejects": 0,
  "data.threads": 0,
  "optimizer.eps": 0,
  "optimizer.warmup_steps": 0,
  "optimizer.weight_decay": 0,
  "preview.every": 0,
  "profile.first": 1,
  "profile.steps": 0,
  "stage.text_width": 1,
  "train.batch_size": 1,
  "train.checkpoint_every": 1,
  "train.keep": 1,
  "train.keep_best": 0,
  "train.keep_every": 0,
  "train.log_every": 1,
  "train.max_rollbacks": 0,
  "train.max_skipped": 0,
  "train.max_skipped_in_a_row": 1,
  "train.micro_batches": 1,
  "train.rollback_skip": 0,
  "train.rollback_steps": 0,
  "train.spike_deviations": 0,
  "train.steps": 1,
  "train.watchdog_minutes": 0,
}
_POSITIVE = ("optimizer.learning_rate", "optimizer.clip_norm")
_BELOW_ONE = ("optimizer.b1", "optimizer.b2", "train.ema_decay")
_SHARES = ("stage.text_drop_rate", "data.max_reject_fraction")
_CHOICES = {
  "stage.dtype": ("float32", "bfloat16", "float16"),
  "start.which": ("ema", "raw"),
}


def check(config: Mapping[str, Any], workdir: epath.PathLike) -> None:
  """Raises BadInput for the first field that is wrong.

  A field that is not there is not wrong, nor is a `start.source` that is gone
  when `workdir` has a checkpoint to go on from.
  """
  fields = dict(_fields(config))
  for name, value in fields.items():
    if wanted := _wanted(name, value):
      raise errors.BadInput(
        f"config field {name!r} is {value!r}; it must be {wanted}."
      )
  for name in ("optimizer.decayed", "start.fresh", "lora.rules"):
    patterns = fields.get(name, ())
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
      _check_pattern(name, pattern)
  for rule in fields.get("optimizer.rules", ()):
    _check_rule(rule)
  batch, parts = (
    fields.get(f"train.{name}", 1) for name in ("batch_size", "micro_batches")
  )
  if batch % parts:
    near = batch - batch % parts
    fitting = f"{near} or {near + parts}" if near else f"{parts}"
    raise errors.BadInput(
      f"train.batch_size {batch} is not divisible by train.micro_batches"
      f" {parts}; use a batch of {fitting}."
    )
  folder = epath.Path(workdir) / step_folders.FOLDER
  if fields.get("start.source") and not step_folders.steps_in(folder):
    initial.find(fields["start.source"])


def _fields(
  config: Mapping[str, Any], above: str = ""
) -> Iterator[tuple[str, Any]]:
  """("train.steps", 500), ..."""
  for name, value in config.items():
    if isinstance(value, Mapping):
      yield from _fields(value, f"{above}{name}.")
    else:
      yield f"{above}{name}", value


def _wanted(name: str, value: Any) -> str | None:
  """What a field must be, if it is not."""
  number = value if isinstance(value, int | float) else math.nan  # in no range
  if name in _AT_LEAST and not _AT_LEAST[name] <= number < math.inf:
    return f"{_AT_LEAST[name]} or more"
  if name in _POSITIVE and not 0 < number < math.inf:
    return "above 0"
  if name in _BELOW_ONE and not 0 <= number < 1:
    return "from 0 to below 1"
  if name in _SHARES and not 0 <= number <= 1:
    return "from 0 to 1"
  if name in _CHOICES and value not in _CHOICES[name]:
    return f"one of {', '.join(_CHOICES[name])}"
  return None


def _check_pattern(name: str, pattern: str) -> None:
  try:
    re.compile(pattern)
  except re.error as error:
    raise errors.BadInput(
      f"config field {name!r}: {pattern!r} is no regular expression ({error});"
      " it matches whole names, as in '.*/kernel'."
    ) from error


def _check_rule(rule: Any) -> None:
  """A pattern, and a factor of the learning rate."""
  match rule:
    case [str() as pattern, int() | float() as factor] if factor >= 0:
      _check_pattern("optimizer.rules", pattern)
    case _:
      raise errors.BadInput(
        f"config field 'optimizer.rules' has {rule!r}; each rule is a pattern"
        " and a factor of the learning rate, as in ('.*', 1.0)."
      )
