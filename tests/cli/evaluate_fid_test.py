"""`imagen evaluate fid` on small folders, with a tiny network for Inception."""

import json

import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

from imagen_jax.cli import evaluate_fid
from imagen_jax.core import errors
from imagen_jax.evals import features, inception_features


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
  def load(weights, convention):
    return features.Network(
      lambda pixels: pixels[:4, :4].astype(np.float32) / 255,
      lambda params, x: {
        "pool": jnp.concatenate([x.mean((1, 2)), x.std((1, 2))], -1)
      },
      {},
      {"weights": str(weights), "resize": convention},
    )

  monkeypatch.setattr(inception_features, "load", load)


@pytest.fixture
def folders(tmp_path):
  draw = np.random.default_rng(0)
  for name, low in (("real", 0), ("fake", 60)):
    (tmp_path / name).mkdir()
    for i in range(12):
      pixels = draw.integers(low, 200, (6, 7, 3), dtype=np.uint8)
      PIL.Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
  return tmp_path


def run(folders, *options, real="real"):
  evaluate_fid.main(
    [
      f"--real={folders / real}",
      f"--fake={folders / 'fake'}",
      f"--out={folders / 'out'}",
      "--draws=3",
      *options,
    ]
  )


def test_numbers_a_page_and_a_reference(folders, capsys):
  (folders / "fake" / "prompts.txt").write_text("a cat")
  run(folders, f"--save_reference={folders / 'real.npz'}")
  printed = capsys.readouterr().out
  told = json.loads((folders / "out" / "fid.json").read_text())
  assert set(told["scores"]) == {"fid", "kid", "precision", "recall"}
  fid = told["scores"]["fid"]["value"]
  assert f"{fid:.5g}" in printed and "report:" in printed
  assert "1 other files of the generated set were passed" in printed
  assert told["sets"]["real"]["images"] == 12
  page = (folders / "out" / "fid.html").read_text()
  assert f"{fid:.5g}" in page and page.count("data:image/png") == 2
  run(folders, real="real.npz")
  again = json.loads((folders / "out" / "fid.json").read_text())
  assert list(again["scores"]) == ["fid"]
  assert again["scores"]["fid"]["value"] == pytest.approx(fid, rel=1e-9)
  with pytest.raises(errors.BadInput, match="resize 'clean_fid'"):
    run(folders, "--resize=pytorch_fid", real="real.npz")


def test_wrong_input_is_one_line(folders):
  for options, wrong in (
    (["--count=13"], "holds 12 images, and 13 are asked"),
    (["--resize=tf2"], "known are clean_fid"),
    (["--draws=1"], "at least 2"),
    (["--count=0"], "at least 1"),
    (["--count=3"], "at least 4 images in each set, and one has 3"),
  ):
    with pytest.raises(errors.BadInput, match=wrong):
      run(folders, *options)
  with pytest.raises(errors.BadInput, match="is no reference"):
    run(folders, real="none.npz")
  (folders / "fake" / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n half")
  with pytest.raises(errors.DataError, match=r"'x.png' cannot be read: damag"):
    run(folders)
  run(folders, "--skip_damaged")
  told = json.loads((folders / "out" / "fid.json").read_text())
  assert told["sets"]["generated"]["skipped"][0].startswith("x.png: damaged")
