"""DeepFloyd IF from its public folder to an image, and what is refused."""

import importlib
import json
import shutil

import jax
import numpy as np
import pytest

from imagen_jax import api
from imagen_jax.cli import export, import_weights, main
from imagen_jax.core import errors, images
from imagen_jax.text import embedding, encoders
from imagen_jax.weights import from_deepfloyd
from tests import deepfloyd_files

T5 = deepfloyd_files.GOLDEN.parent / "t5"
ACCEPT = "--accept_license=deepfloyd-if"


@pytest.fixture
def quick_compiles():
  name = "jax_disable_most_optimizations"
  before = jax.config.read(name)
  jax.config.update(name, True)
  yield
  jax.config.update(name, before)


@pytest.fixture
def source(tmp_path):
  """A tiny stage I with its T5, as the public folder has them."""
  folder = deepfloyd_files.write(tmp_path / "IF-I-tiny", 1)
  shutil.copytree(T5 / "text_encoder", folder / "text_encoder")
  shutil.copytree(T5 / "tokenizer", folder / "tokenizer")
  return folder


def run(source, out, *more):
  import_weights.run(
    ["--from=deepfloyd", f"--source={source}", f"--out={out}", *more]
  )


def test_a_folder_becomes_a_cascade_that_samples(
  source, tmp_path, capsys, quick_compiles
):
  out = tmp_path / "if"
  run(source, out, ACCEPT)
  shown = capsys.readouterr().out
  assert "non-commercial" in shown and "tensors" in shown
  assert shown.count("\n") < 20
  description = api.describe(str(out))
  (entry,) = description.stages
  assert entry.sampler["percentile"] == 95 and entry.sampler["steps"] == 100
  assert entry.sampler["threshold_cap"] == 1.5
  assert description.max_length == 77 and "IF License" in description.note
  code = main.main(
    [
      "sample", f"--config=configs/if.py:{out}",
      "--config.samplers.base.steps=2", f"--out={tmp_path / 'drawn'}",
      "a red cat",
    ]
  )  # fmt: skip
  assert code == 0
  (file,) = (tmp_path / "drawn").glob("a-red-cat-*.png")
  pixels, chunks = images.read_png(file)
  assert pixels.shape == (16, 16, 3) and pixels.std() > 0
  assert chunks["prompt"] == "a red cat"


def test_export_gives_the_folder_back(source, tmp_path, capsys):
  run(source, tmp_path / "if", ACCEPT)
  file, out = tmp_path / "if" / "base.safetensors", tmp_path / "again"
  flags = ["--to=deepfloyd", f"--checkpoint={file}", f"--out={out}"]
  with pytest.raises(errors.BadInput, match="dtype=float32 or float16"):
    export.run(flags)
  with pytest.raises(errors.BadInput, match="takes one --checkpoint, a stage"):
    export.run([*flags, f"--checkpoint={file}"])
  export.run([*flags, "--dtype=float32"])
  assert "for diffusers" in capsys.readouterr().out
  a, b = (from_deepfloyd.read(folder) for folder in (source, out))
  assert a.fields == b.fields and a.tensors.keys() == b.tensors.keys()
  for name, tensor in a.tensors.items():
    np.testing.assert_array_equal(tensor.read(), b.tensors[name].read())


def test_padding_keeps_the_states_that_the_network_saw():
  """golden: the states of "" in diffusers' pipeline, all 77 of them."""
  encoder, params = encoders.load(
    T5 / "text_encoder", 77, tokenizer=T5 / "tokenizer", padding="states"
  )
  with np.load(deepfloyd_files.GOLDEN / "runs.npz") as golden:
    expected = golden["negative_prompt_embeds"][0]
  text_emb, text_mask = embedding.embed(encoder, params, ["", "a cat"])
  assert text_mask[0].tolist() == [True] + [False] * 76
  np.testing.assert_allclose(text_emb[0], expected, rtol=0, atol=5e-5)
  assert np.abs(text_emb[:, -1]).max() > 0.1


def test_the_licence_must_be_accepted(source, tmp_path, capsys):
  for more in ((), ("--accept_license=mit",)):
    with pytest.raises(errors.BadInput, match="add --accept_license=deepfloyd"):
      run(source, tmp_path / "if", *more)
    assert "research only" in capsys.readouterr().out
  assert not (tmp_path / "if").exists()


def test_wrong_folders_are_refused_in_one_line(source, tmp_path):
  out = tmp_path / "if"
  shutil.rmtree(source / "text_encoder")
  with pytest.raises(errors.BadInput, match="give IF's T5 with --encoder"):
    run(source, out, ACCEPT)
  with pytest.raises(errors.BadInput, match="no unet/config.json"):
    run(tmp_path, out, ACCEPT, f"--encoder={T5 / 'text_encoder'}")
  second = deepfloyd_files.write(tmp_path / "IF-II-tiny", 2)
  with pytest.raises(errors.BadInput, match="choose stages that fit"):
    run(
      source, out, ACCEPT, f"--source={second}",
      f"--encoder={T5 / 'text_encoder'}",
    )  # fmt: skip
  path = source / "scheduler" / "scheduler_config.json"
  path.write_text(
    json.dumps(json.loads(path.read_text()) | {"variance_type": "fixed_small"})
  )
  with pytest.raises(errors.BadInput, match="variance_type='fixed_small'"):
    run(source, out, ACCEPT, f"--encoder={T5 / 'text_encoder'}")
  assert not list(out.glob("*")) if out.exists() else True


def test_lists_of_steps_by_the_config():
  spec = importlib.import_module("configs.if")
  config = spec.get_config("weights/if,smart50")
  assert config.samplers.base.steps == 50
  assert config.samplers.base.spacing == "smart50"
  assert config.samplers.sr.steps is None
  with pytest.raises(ValueError, match="no list of steps"):
    spec.get_config("weights/if,smart")
