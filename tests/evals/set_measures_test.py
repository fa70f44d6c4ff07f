"""All measures together, references, and what the report says of them."""

import numpy as np
import pytest

from imagen_jax.core import errors
from imagen_jax.evals import (
  features,
  frechet,
  html_report,
  kernel_distance,
  set_measures,
)

SETTINGS = set_measures.Settings(draws=5)
IDENTITY = {"weights": "abc", "resize": "clean_fid"}


def found(n, d=6, seed=0, shift=0.0, classes=0, **more):
  draw = np.random.default_rng(seed)
  rows = {"pool": np.float32(draw.normal(size=(n, d)) + shift)}
  if classes:
    rows["logits"] = np.float32(draw.normal(size=(n, classes)))
  given = {"images": f"images {seed}", "identity": IDENTITY}
  given |= {"sizes": {"8x8": n}, "skipped": ()} | more
  return features.Features(rows, tuple(map(str, range(n))), **given)


def test_measures_are_those_of_the_features():
  fake, real = found(40, classes=3), found(50, seed=1, shift=0.5)
  heard = []
  scores = set_measures.measure(fake, real, SETTINGS, progress=heard.append)
  names = ["fid", "kid", "precision", "recall", "inception_score"]
  assert heard == names and list(scores) == names
  a, b = fake.rows["pool"], real.rows["pool"]
  assert scores["fid"].value == frechet.frechet_distance(a, b)
  assert scores["kid"].value == kernel_distance.kernel_distance(a, b)
  for score in scores.values():
    assert score.low < score.value < score.high
  assert "inception_score" not in set_measures.measure(real, fake, SETTINGS)


def test_a_reference_gives_the_same_fid(tmp_path):
  fake, real = found(40), found(50, seed=1, shift=0.5)
  path = tmp_path / "real.npz"
  set_measures.write_reference(path, set_measures.reference(real))
  kept = set_measures.read_reference(path)
  assert (kept.count, kept.images) == (50, real.images)
  scores = set_measures.measure(fake, kept, SETTINGS)
  whole = set_measures.measure(fake, real, SETTINGS)
  assert list(scores) == ["fid"]
  assert scores["fid"].value == pytest.approx(whole["fid"].value, rel=1e-9)
  other = fake._replace(identity=IDENTITY | {"resize": "pytorch_fid"})
  with pytest.raises(errors.BadInput, match="resize 'clean_fid', the other"):
    set_measures.measure(other, kept, SETTINGS)
  for data in (b"", b"PK\3\4 half", path.read_bytes()[:500]):
    path.write_bytes(data)
    with pytest.raises(errors.BadInput, match="is no reference"):
      set_measures.read_reference(path)


def test_kid_over_blocks_is_kid_and_its_interval_covers():
  covered, values = 0, []
  for seed in range(40):
    a = found(200, seed=seed).rows["pool"]
    b = found(220, seed=1000 + seed).rows["pool"]
    kid = kernel_distance.over_blocks(a, b, blocks=10, seed=seed)
    values.append(kid.value)
    covered += kid.low < 0 < kid.high
  assert abs(np.mean(values)) < 3 * np.std(values) / 40**0.5
  assert covered >= 33
  apart = found(220, seed=3, shift=1.0).rows["pool"]
  kid = kernel_distance.over_blocks(a, apart, blocks=10)
  whole = kernel_distance.kernel_distance(a, apart)
  assert kid.low < whole < kid.high
  assert kid.low > 0
  with pytest.raises(errors.BadInput, match="20 blocks of 30"):
    kernel_distance.over_blocks(a[:30], b)


def test_notes_say_what_a_number_hangs_on():
  alike = found(10)
  assert set_measures.notes(alike, alike) == [
    "Both sets are the same images.",
    "These weights have no classes, so no Inception score.",
  ]
  mixed = found(
    5, seed=1, classes=2, sizes={"8x8": 3, "9x8": 2}, skipped=("a",)
  )
  text = " ".join(set_measures.notes(mixed, alike))
  for part in ("not full rank", "differ in size", "1 images", "9x8 (2)"):
    assert part in text


def test_a_page_takes_texts_as_texts():
  evil = '<script>alert("x")</script>'
  page = html_report.page(
    evil,
    [
      html_report.heading(evil),
      html_report.paragraph(evil),
      html_report.table((evil,), [(evil,), (1.5,)]),
      html_report.picture(np.zeros((2, 3, 3), np.uint8), f'"{evil}'),
    ],
  )
  assert "<script" not in page
  assert page.count("&lt;script&gt;") == 8
  assert '<td class="number">1.5</td>' in page
