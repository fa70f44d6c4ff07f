"""`imagen plan`: tables, JSON, and what to install."""

import json

import pytest

from imagen_jax import build_plan
from imagen_jax.cli import main, plan
from imagen_jax.core import errors

FLAGS = ("--config=configs/demo.py:base", "--topology=gpu:8xh200")


def test_without_libtpu_one_line_says_what_to_install(monkeypatch, capsys):
  monkeypatch.setattr(build_plan.importlib.util, "find_spec", lambda name: None)
  code = main.main(["plan", FLAGS[0], "--topology=v5e:2x2"])
  assert code == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert 'pip install "imagen_jax[plan]"' in line


def test_a_table_is_printed_of_each_slice_and_program(capsys):
  plan.run([*FLAGS, "--topology=gpu:2xh100", "--sampler", "--price=2"])
  out = capsys.readouterr().out
  heads = [line for line in out.splitlines() if " step on " in line]
  assert len(heads) == 4 and "gpu:2xh100" in heads[3]
  assert "nothing was compiled" in out and ", cost " in out
  assert max(map(len, out.splitlines())) <= 80


def test_sampling_is_planned_too_or_alone(capsys):
  for flag, programs in (("", ["train", "sample"]), ("=only", ["sample"])):
    plan.run([*FLAGS, "--json", f"--sampler{flag}"])
    rows = json.loads(capsys.readouterr().out)
    assert [row["facts"]["program"] for row in rows] == programs


def test_json_has_all_numbers(capsys):
  plan.run([*FLAGS, "--json", "--config.train.batch_size=32"])
  (row,) = json.loads(capsys.readouterr().out)
  assert row["facts"]["batch_size"] == 32
  assert row["facts"]["mesh"]["data"] == 8
  assert row["estimate"]["fits"] and row["advice"] == []


def test_the_encoder_is_planned_in_place_of_the_stage(capsys):
  text = ["--config.text.precision=bfloat16", "--config.text.max_length=128"]
  plan.run([*FLAGS, *text, "--encoder=t5_v1_1_small", "--sample_batch=64"])
  out = capsys.readouterr().out
  assert "encode step on gpu:8xh200" in out and "35,332,800" in out
  assert "captions a second" in out and "image" not in out
  plan.run([*FLAGS, "--config.text.encoder=t5_v1_1_base", "--encoder"])
  assert "109,628,544" in capsys.readouterr().out


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--encoder=t5_xxl"], "unknown text encoder 't5_xxl'; did you mean"),
    (["--encoder", "--sampler"], "--sampler: not allowed with argument"),
    (["--topology=v5e:16"], "topology 'v5e:16' is not known"),
    (["--price=-1"], "--price: -1 is not 0 or more"),
    (["--sample_batch=0"], "--sample_batch: 0 is not 1 or more"),
    (["--search"], "search a TPU slice"),
    (["--config.train.batch_size=12"], "batch_size 12 is not divisible by 8"),
  ],
)
def test_what_is_wrong_is_told_in_one_line(flags, message):
  with pytest.raises(errors.BadInput, match=message):
    plan.run([*FLAGS, *flags])


def test_progress_is_told_on_stderr(monkeypatch, capsys):
  class Event(plan.threading.Event):
    def wait(self, timeout=None):
      return super().wait(0.01)

  monkeypatch.setattr(plan.threading, "Event", Event)
  with plan._telling("train step for v5e:2x2"):
    while "compiling the train step for v5e" not in capsys.readouterr().err:
      pass
  assert "plan" in main.COMMANDS and "imagen plan" in main.help_text()
