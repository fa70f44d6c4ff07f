"""Wrong starts of `imagen train`: code 2 and one line, before it compiles.

Of each, a correct start differs by the one thing that is wrong; that start is
tested, too.
"""

import collections
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from etils import epath
from jax import monitoring

from configs import demo
from imagen_jax import build, build_training
from imagen_jax.cli import main
from imagen_jax.train import manifest
from tests import image_sets
from tests.text import hashed_job

ROOT = pathlib.Path(__file__).parents[2]
DEMO = "--config=configs/demo.py:base,runlocal"
FOLDER = "{}/run"  # {} is the folder of the test, and of `made`


class Started(Exception):
  """The loop was entered: all checks are behind."""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  """A file, a set, a store, and things that only look like them."""
  where = tmp_path_factory.mktemp("preflight")
  (where / "file").write_text("in the way")
  (where / "empty").mkdir()
  image_sets.write(where / "set", image_sets.make(12, sides=(64,)))
  hashed_job.run(where / "store", hashed_job.captions(9), shard_size=20)
  return where


@pytest.fixture
def compiled():
  """How many programs were compiled meanwhile."""
  jax.random.key(0)  # which is a program, too, once in a process
  seen = collections.Counter()

  def listen(event: str, seconds: float, **about) -> None:
    seen["programs"] += event.endswith("backend_compile_duration")

  monitoring.register_event_duration_secs_listener(listen)
  yield seen
  monitoring.unregister_event_duration_listener(listen)


@pytest.fixture
def start(made, compiled, monkeypatch, capsys):
  """(code, lines on stderr) of a start with these arguments."""
  monkeypatch.chdir(ROOT)

  def enter(**given) -> None:
    raise Started

  monkeypatch.setattr(build_training.loop, "train", enter)

  def run(*arguments: str, config: str = DEMO, workdir: str = FOLDER):
    given = [f"--workdir={workdir}", *arguments]
    argv = [config, *(a.replace("{}", str(made)) for a in given)]
    capsys.readouterr()
    code = main.main(["train", *argv])
    lines = capsys.readouterr().err.splitlines()
    return code, [line for line in lines if "imagen train: " in line]

  return run


IMAGES = "--config.data.name=images"
PATHS = "--config.data.paths"
STORE = "--config.data.store"
FIELD = "--config."

# What is given, and what the line says of it: the value, and what to do.
WRONG = {
  # workdirs
  "below a file": ({"workdir": "{}/file/run"}, "file/run'.*give a folder"),
  "a file": ({"workdir": "{}/file"}, "file' .*give a folder that"),
  "read-only": ({"workdir": "/proc/run"}, "cannot write in '/proc/run'"),
  "no name": ({"workdir": ""}, "is empty; give one"),
  # flags and configs
  "flag": (["--wordkir=x"], "'--wordkir'; did you mean '--workdir'"),
  "value of a flag": (["--watchdog_minutes=-1"], "-1 is not 0 or more"),
  "half an address": (["--process_id=1"], "go together"),
  "file of a config": (
    {"config": "--config=configs/dmeo.py:base"},
    "did you mean 'configs/demo.py'",
  ),
  "argument of a config": (
    {"config": "--config=configs/demo.py:bsae"},
    "'bsae' is not known; use base or sr",
  ),
  "typo": ([f"{FIELD}train.stesp=3"], "'stesp'; did you mean 'steps'"),
  "group": ([f"{FIELD}train=3"], "is a group; set one of its fields"),
  "type": ([f"{FIELD}train.steps=many"], "'many' is not an int; write"),
  # data
  "name of data": ([f"{FIELD}data.name=photos"], "'photos' .*use emoji"),
  "no paths": ([IMAGES], "paths is empty; give folders"),
  "no such set": ([IMAGES, f"{PATHS}=/none"], "no manifest.*'/none'; give"),
  "no set": ([IMAGES, f"{PATHS}={{}}/empty"], "no manifest.*/empty'; give"),
  "place": (
    [IMAGES, f"{PATHS}={{}}/set", f"{FIELD}data.place=left"],
    "'left'.*centre",
  ),
  "weights": (
    [IMAGES, f"{PATHS}={{}}/set", f"{FIELD}data.weights=1.0,2.0"],
    "2 weights.*1 set",
  ),
  "budget": (
    [IMAGES, f"{PATHS}={{}}/set", f"{FIELD}data.max_rejects=-1"],
    "max_rejects' is -1; it must be 0 or more",
  ),
  "crop": ([f"{FIELD}data.crop=1000"], "1000"),
  # text
  "no such store": (
    [f"{STORE}=/none"],
    "no manifest.*'/none'; give the folder",
  ),
  "no store": (
    [f"{STORE}={{}}/empty"],
    "no manifest.*/empty'; give the folder",
  ),
  "store of another encoder": (
    [f"{STORE}={{}}/store"],
    'the store has "hashes", asked was "minilm".*imagen embed',
  ),
  "encoder": ([f"{FIELD}text.encoder=minilmm"], "Did you mean 'minilm'"),
  "folder of an encoder": ([f"{FIELD}text.encoder=no/such"], "no/such"),
  "tokenizer": ([f"{FIELD}text.tokenizer=/none"], "/none does not exist; give"),
  "length": ([f"{FIELD}text.max_length=0"], "max_length 0 is not in"),
  "cleaning": ([f"{FIELD}text.clean=soap"], "'soap'; known: none"),
  # the stage
  "prediction": ([f"{FIELD}stage.prediction=x"], "'x' .*use one of x0, eps"),
  "schedule": ([f"{FIELD}stage.schedule=x"], "'x' .*use cosine"),
  "network": ([f"{FIELD}stage.network=unet"], "'unet'; use one of"),
  "dtype": ([f"{FIELD}stage.dtype=float31"], "'float31'.*float32, bfloat16"),
  "resolution": ([f"{FIELD}stage.resolution=30"], "30 .*use 24 or 32"),
  "low resolution": ([f"{FIELD}stage.low_resolution=16"], "low-resolution"),
  # how it is trained
  "batch": ([f"{FIELD}train.batch_size=0"], "batch_size' is 0.*1 or more"),
  "parts of a batch": (
    [f"{FIELD}train.micro_batches=3"],
    "8 is not divisible by .* 3; use a batch of 6 or 9",
  ),
  "steps": ([f"{FIELD}train.steps=0"], "steps' is 0; it must be 1 or more"),
  "optimizer": ([f"{FIELD}optimizer.name=sgd"], "'sgd' .*adam, adamw"),
  "learning rate": ([f"{FIELD}optimizer.learning_rate=nan"], "nan.*above 0"),
  "decay": ([f"{FIELD}optimizer.decay=linear"], "'linear' .*cosine"),
  "rule of nothing": (
    [f"{FIELD}optimizer.rules=(('nothing/.*', 1.0), ('.*', 1.0))"],
    "1 rules without a parameter .'nothing/",
  ),
  "rules of a part": (
    [f"{FIELD}optimizer.rules=(('conditioning/.*', 1.0),)"],
    "parameters without a rule",
  ),
  "rule": ([f"{FIELD}optimizer.rules=a,b"], "'a'; each rule is a pattern"),
  "source": ([f"{FIELD}start.source=/none"], "'/none' is nothing to start"),
  "steps of a sampler": ([f"{FIELD}sampler.steps=0"], "steps is 0"),
  "trace": ([f"{FIELD}profile.steps=3"], "has 2 steps; begin at"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_start_is_refused_before_it_compiles(name, start, compiled):
  given, said = WRONG[name]
  code, lines = start(**given) if isinstance(given, dict) else start(*given)
  assert code == 2 and len(lines) == 1, lines
  assert re.search(said, lines[0]), lines[0]
  assert not compiled["programs"]


@pytest.fixture
def no_encoder(monkeypatch):
  """The weights of one are converted, each by a small program."""
  text = build_training.Text(embed=lambda captions: None, fingerprint="none")
  monkeypatch.setattr(build_training, "text", lambda config: text)


@pytest.mark.parametrize(
  ("field", "now"),
  [("seed", 7), ("stage.prediction", "x0")],
)
def test_a_checkpoint_of_another_run_is_refused_before_it_compiles(
  field, now, start, compiled, no_encoder, tmp_path
):
  config = build.plain(demo.get_config("base,runlocal"))
  (tmp_path / "checkpoints" / "4").mkdir(parents=True)
  about = {"config": config, "hashes": {}}
  manifest.write(epath.Path(tmp_path / "checkpoints"), 4, about)
  code, (line,) = start(f"{FIELD}{field}={now}", workdir=str(tmp_path))
  assert code == 2 and not compiled["programs"]
  said = f"{field} was .* and is now {now!r} .--allow_change={field}"
  assert re.search(said, line), line


def test_too_little_disk_is_refused_before_it_compiles(
  start, compiled, no_encoder, monkeypatch, made
):
  usage = collections.namedtuple("usage", "total used free")
  monkeypatch.setattr(
    build_training.checkpoints.shutil, "disk_usage", lambda _: usage(9, 8, 1000)
  )
  code, (line,) = start(workdir="{}/full")
  assert code == 2 and not compiled["programs"]
  assert "has 1 kB free, and two checkpoints of this run take" in line
  assert not (made / "full" / "run.json").exists()


@pytest.mark.parametrize(
  "given", [[], [IMAGES, f"{PATHS}={{}}/set", f"{FIELD}data.weights=2.0"]]
)
def test_a_right_start_is_not_refused(given, start, no_encoder):
  code, lines = start(*given, f"{FIELD}preview.every=0", workdir="{}/right")
  assert (code, len(lines)) == (1, 1) and "this is a bug" in lines[0]


def test_what_compiles_is_counted(compiled):
  jax.jit(lambda x: x * 3 + 1)(jnp.arange(5))
  assert compiled["programs"]


@pytest.mark.slow
@pytest.mark.parametrize(
  ("given", "said"),
  [
    ("--workdir={}/file/run", "cannot write in .*/file/run'"),
    (f"{FIELD}train.stesp=3", "did you mean 'steps'"),
    (f"{STORE}=/none", "no manifest.json in '/none'"),
    # Of a type that the tests check by themselves.
    (f"{FIELD}sampler.sampler=euler", "'euler' is unknown; use one of ances"),
  ],
)
def test_a_wrong_start_of_a_process_is_one_line(given, said, made):
  argv = [f"--workdir={made}/run", given.replace("{}", str(made))]
  done = subprocess.run(
    [sys.executable, "-m", "imagen_jax", "train", DEMO, *argv],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=60,
  )
  assert done.returncode == 2 and not done.stdout
  (line,) = done.stderr.splitlines()
  assert line.startswith("imagen train: ") and re.search(said, line), line
