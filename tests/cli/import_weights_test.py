"""`imagen import`: T5X and Hugging Face to folders, and what it refuses."""

import pathlib
import shutil
import tarfile

import numpy as np
import pytest

from imagen_jax.cli import import_weights
from imagen_jax.core import errors
from imagen_jax.text import embedding, encoders, vocabularies
from imagen_jax.weights import from_hf, from_t5x

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
WORDS = GOLDEN / "t5" / "tokenizer" / "spiece.model"
CAPTIONS = ["a photo of a red cat", "", "two dogs"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
  folder = tmp_path_factory.mktemp("t5x")
  with tarfile.open(GOLDEN / "t5x.tar.gz") as archive:
    archive.extractall(folder, filter="data")
  return folder / "t5x" / "f32" / "checkpoint_0"


@pytest.fixture(scope="module")
def hub_folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("hub") / "t5"
  shutil.copytree(GOLDEN / "t5" / "text_encoder_fp16", folder)
  shutil.copy(WORDS, folder)
  return folder


def run(kind, source, out, *more):
  import_weights.run(
    [f"--from={kind}", f"--source={source}", f"--out={out}", *more]
  )
  return out


def test_a_t5x_checkpoint_becomes_a_folder(checkpoint, tmp_path, capsys):
  out = run(
    "t5x", checkpoint, tmp_path / "t5", "--dtype=float32",
    f"--tokenizer={WORDS}",
  )  # fmt: skip
  assert "t5, 30 tensors" in capsys.readouterr().out
  assert sorted(path.name for path in out.iterdir()) == [
    "config.json", "model.safetensors", "spiece.model",
  ]  # fmt: skip
  a = from_hf.load(out).fingerprint
  assert a == from_t5x.load(checkpoint).fingerprint
  direct = encoders.load(checkpoint, 20, tokenizer=WORDS)
  np.testing.assert_array_equal(
    embedding.embed(*encoders.load(out, 20), CAPTIONS).text_emb,
    embedding.embed(*direct, CAPTIONS).text_emb,
  )


def test_bfloat16_is_the_default(hub_folder, tmp_path):
  out = run("hf", hub_folder, tmp_path / "t5")
  names = {path.name for path in out.iterdir()}
  assert {"config.json", "model.safetensors", "spiece.model"} <= names
  tensors = from_hf.read(out).tensors
  assert {t.dtype.name for t in tensors.values()} == {"bfloat16"}
  a = embedding.embed(*encoders.load(out, 20), CAPTIONS).text_emb
  b = embedding.embed(*encoders.load(hub_folder, 20), CAPTIONS).text_emb
  drift = np.sqrt(np.mean((a - b) ** 2) / np.mean(b**2))
  assert 0 <= drift < 0.03  # the golden weights are bfloat16 already


def test_t5s_own_vocabulary_is_written(tmp_path, monkeypatch, checkpoint):
  out = run("t5x", checkpoint, tmp_path / "t5")
  words = vocabularies.load(out)
  assert words.sha256 == vocabularies.t5().sha256


@pytest.mark.parametrize(
  ("kind", "source", "message"),
  [
    ("t5x", "nowhere", "does not exist"),
    ("hf", "nowhere", "does not exist"),
    ("hf", "bare", "holds no tokenizer"),
  ],
)
def test_what_is_not_there(kind, source, message, tmp_path):
  shutil.copytree(GOLDEN / "t5" / "text_encoder", tmp_path / "bare")
  out = tmp_path / "out"
  with pytest.raises(errors.BadInput, match=message):
    run(kind, tmp_path / source, out)
  assert not out.exists()


def test_an_existing_folder_is_left_alone(hub_folder, tmp_path):
  with pytest.raises(errors.BadInput, match="exists already"):
    run("hf", hub_folder, tmp_path)
  assert not any(tmp_path.iterdir())


def test_arguments_are_checked():
  with pytest.raises(errors.BadInput, match=r"--from.*t5x"):
    import_weights.run(["--from=torch", "--source=a", "--out=b"])
  with pytest.raises(errors.BadInput, match="--dtype"):
    import_weights.run(["--from=hf", "--source=a", "--out=b", "--dtype=fp8"])


def test_help_teaches(capsys):
  with pytest.raises(SystemExit) as stop:
    import_weights.run(["--help"])
  assert stop.value.code == 0
  text = capsys.readouterr().out
  for line in import_weights._EXAMPLES:
    assert line in text
