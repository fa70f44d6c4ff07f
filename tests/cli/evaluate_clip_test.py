"""`imagen evaluate clip` with both judges, on a few small images."""

import json

import numpy as np
import pytest

from imagen_jax.cli import evaluate
from imagen_jax.core import errors, images
from imagen_jax.data import emoji
from imagen_jax.evals import clip_features, emoji_measure, features, image_set


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
  """Six true images of the emoji set; the last two are exchanged."""
  folder = tmp_path_factory.mktemp("samples")
  objects = emoji.open_emoji()
  pairs = emoji_measure.choose_pairs(objects, 6)
  pixels = images.to_uint8(emoji_measure.real_images(objects, pairs, 32))
  entries = []
  for i, pair in enumerate(pairs):
    images.write_png(folder / f"{i}.png", pixels[i])
    entries.append(image_set.Entry(f"{i}.png", pair.caption))
  a, b = entries[4:]
  entries[4:] = a._replace(prompt=b.prompt), b._replace(prompt=a.prompt)
  image_set.write(folder, entries, {})
  return folder


def test_retrieval_where_there_is_no_clip(samples, tmp_path, capsys):
  line = ["clip", f"--images={samples}", f"--out={tmp_path}", "--draws=5"]
  evaluate.run(line)
  assert "object" in capsys.readouterr().out
  told = json.loads((tmp_path / "clip.json").read_text())
  assert told["scores"]["both"]["value"] == pytest.approx(4 / 6)
  rows = [
    json.loads(x) for x in (tmp_path / "clip.jsonl").read_text().splitlines()
  ]
  assert [row["both"] for row in rows] == [1, 1, 1, 1, 0, 0]
  page = (tmp_path / "clip.html").read_text()
  assert rows[5]["caption"] in page and "data:image/png" in page


def test_a_clip_judges(samples, tmp_path, monkeypatch):
  network = features.Network(
    lambda pixels: pixels[:4, :4].astype(np.float32) / 255,
    lambda params, x: {"embedding": x.mean((1, 2))},
    {},
    {"weights": "tiny"},
  )
  draw = np.random.default_rng(0)
  monkeypatch.setattr(clip_features, "load", lambda folder: Judge(network))
  monkeypatch.setattr(
    clip_features,
    "embed_texts",
    lambda judge, captions: draw.uniform(size=(len(captions), 3)),
  )
  line = ["clip", f"--images={samples}", f"--out={tmp_path}", "--judge=a_clip"]
  with pytest.raises(errors.BadInput, match="100 candidates among 6"):
    evaluate.run(line)
  evaluate.run([*line, "--candidates=3"])
  told = json.loads((tmp_path / "clip.json").read_text())
  scores = told["scores"]
  assert set(scores) == {"cosine", "clip_score", "r_precision"}
  assert scores["clip_score"]["value"] == pytest.approx(
    100 * scores["cosine"]["value"]
  )
  assert told["settings"]["candidates"] == 3
  with pytest.raises(errors.BadInput, match="at least 2"):
    evaluate.run([*line, "--candidates=1"])


class Judge:
  """Stands for a whole CLIP."""

  def __init__(self, network):
    self.network = network
