"""`imagen COMMAND ...`: finds the command, runs it, turns errors to exit codes.

Each command is a module with `run(argv)`; it is imported only when it is asked
for, so that `imagen --help` is quick. Exit codes: 0 done, 1 a bug, 2 bad
arguments, config or paths, 3 non-finite, 4 data, 5 checkpoint, 6 a hang, 42
stopped on request, 130 interrupted; never 255.
"""

import importlib
import logging
import os
import pathlib
import sys
import traceback
from collections.abc import Sequence
from typing import NamedTuple

from imagen_jax import version
from imagen_jax.cli import arguments
from imagen_jax.core import errors


class Command(NamedTuple):
  """Where a command lives, what it does, and a line that runs it."""

  module: str
  summary: str
  example: str


COMMANDS = {
  "sample": Command(
    "imagen_jax.cli.sample",
    "prompts to images through the cascade",
    'imagen sample --prompt="a 3D render of a fox on a sky blue background"',
  ),
  "reproduce": Command(
    "imagen_jax.cli.reproduce",
    "an image that sample made to the same image, compared",
    "imagen reproduce samples/a-3d-render-of-a-crab-5f0c2a91-000.png",
  ),
  "train": Command(
    "imagen_jax.cli.train",
    "train one stage, or go on with it",
    "imagen train --config=configs/demo.py:base --workdir=runs/base",
  ),
  "embed": Command(
    "imagen_jax.cli.embed",
    "captions to an embedding store, for training without an encoder",
    "imagen embed --captions=captions.txt --out=store",
  ),
  "data": Command(
    "imagen_jax.cli.data",
    "images and captions to sets for training; what is in a set",
    "imagen data build --images=pictures --out=sets/pictures",
  ),
  "import": Command(
    "imagen_jax.cli.import_weights",
    "public checkpoints into ours: text encoders, DeepFloyd IF",
    "imagen import --from=t5x --source=checkpoint_1000000 --out=t5_xxl",
  ),
  "evaluate": Command(
    "imagen_jax.cli.evaluate",
    "measure images: FID, CLIP score, sweeps over sampler settings",
    "imagen evaluate sweep --guidance_weight=1,3,5 --out=sweep",
  ),
  "doctor": Command(
    "imagen_jax.cli.doctor",
    "what is wrong with a run, and what to do",
    "imagen doctor --config=configs/demo.py:base --workdir=runs/base",
  ),
  "plan": Command(
    "imagen_jax.cli.plan",
    "memory, speed and cost of a config on a TPU slice that is not there",
    "imagen plan --config=configs/base_64.py:2b,v5e --topology=v5e:16x16",
  ),
  "export": Command(
    "imagen_jax.cli.export",
    "trained stages to safetensors, as a cascade that sample reads",
    "imagen export --checkpoint=runs/base --checkpoint=runs/sr --out=demo",
  ),
}

_HEAD = "imagen: pictures from text, by diffusion on pixels, in JAX."

_WORKED = """\
three worked examples:
  Four pictures of one prompt with the weights that are shipped:
    imagen sample --prompt="a 3D render of a crab on a navy blue background" \\
      --num_samples=4 --seed=1 --out=crabs

  Train the 64x64 stage, with two fields of the config changed; the same line
  goes on after a stop:
    imagen train --config=configs/demo.py:base --workdir=runs/base \\
      --config.train.batch_size=16 --config.train.steps=2000

  What a command takes, with examples:
    imagen sample --help"""

_INTERRUPTED = 130


def help_text() -> str:
  """What `imagen --help` prints."""
  width = max(map(len, COMMANDS))
  lines = [_HEAD, "", "usage: imagen COMMAND [OPTIONS]", "", "commands:"]
  for name, command in COMMANDS.items():
    lines.append(f"  {name:<{width}}  {command.summary}")
    lines.append(f"    {command.example}")
  return "\n".join([*lines, "", _WORKED])


def main(argv: Sequence[str]) -> int:
  """Runs one command line and returns its exit code."""
  name = argv[0] if argv else "--help"
  if name in ("help", "-h", "--help") and len(argv) > 1:
    return main([argv[1], "--help"])
  try:
    if name in ("help", "-h", "--help"):
      print(help_text(), flush=True)
      return 0
    if name == "--version":
      print(f"imagen {version.VERSION}", flush=True)
      return 0
    _run(name, argv[1:])
    sys.stdout.flush()
    return 0
  except SystemExit as stop:
    return _as_exit_code(stop.code)
  except KeyboardInterrupt:
    _say(name, "interrupted.")
    return _INTERRUPTED
  except BrokenPipeError:  # `imagen ... | head` has read enough
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
  except errors.ImagenError as error:
    _say(name, str(error))
    return error.exit_code
  except Exception:
    traceback.print_exc()
    _say(name, "this is a bug; the lines above say where.")
    return 1


def entry() -> None:
  """The console script."""
  sys.exit(main(sys.argv[1:]))


def _run(name: str, argv: Sequence[str]) -> None:
  if name not in COMMANDS:
    raise errors.BadInput(
      f"unknown command {name!r}{arguments.did_you_mean(name, COMMANDS)}"
      f" Commands: {', '.join(COMMANDS)}. See `imagen --help`."
    )
  _log_to_stderr()
  if name != "plan":  # for chips that are not here, JAX cannot read them again
    _keep_compiled_programs()
  importlib.import_module(COMMANDS[name].module).run(list(argv))


def _say(name: str, message: str) -> None:
  """One line on stderr, whatever the message holds."""
  program = f"imagen {name}" if name in COMMANDS else "imagen"
  print(f"{program}: {' '.join(message.split())}", file=sys.stderr, flush=True)


def _as_exit_code(code: str | int | None) -> int:
  if isinstance(code, str):
    print(code, file=sys.stderr)
    return 1
  code = code or 0
  return code if 0 <= code < 255 else 1


def _log_to_stderr() -> None:
  """Our own lines from INFO on, other packages' from WARNING on."""
  from absl import logging as absl_logging

  package = str(pathlib.Path(__file__).parent.parent) + os.sep

  def ours(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING or record.pathname.startswith(
      package
    )

  handler = logging.StreamHandler(sys.stderr)
  handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
  handler.addFilter(ours)
  logger = absl_logging.get_absl_logger()
  logger.handlers = [handler]
  logger.propagate = False
  absl_logging.set_verbosity(absl_logging.INFO)


def _keep_compiled_programs() -> None:
  """Sets JAX's compilation cache to a user folder, unless one is chosen.

  JAX reads these variables when it is imported, which is later than this. The
  cap on the size also makes JAX lock the folder, so that two processes may
  share it.
  """
  if "JAX_COMPILATION_CACHE_DIR" in os.environ:
    return
  caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
  folder = os.path.join(caches, "imagen_jax", "jax")
  try:
    os.makedirs(folder, exist_ok=True)
  except OSError:
    return  # a home that cannot be written: compile anew each time
  os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
  os.environ.setdefault("JAX_COMPILATION_CACHE_MAX_SIZE", str(2 << 30))
  os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
