"""The DoFn on Beam's direct runner, with an encoder made up here."""

import sys

import ml_dtypes
import numpy as np
import pytest

apache_beam = pytest.importorskip(
  "apache_beam", reason="needs the extra: pip install imagen_jax[beam]"
)

from apache_beam.testing import util  # noqa: E402

from imagen_jax.core import errors  # noqa: E402
from imagen_jax.text import beam  # noqa: E402

CAPTIONS = ["a red apple", "", "\0 NUL", "שלום", "two\nlines", "c" * 100_000]
WIDTH = 6


def made(caption):
  """A row for each of the caption's first bytes, the end among them."""
  tokens = [*caption.encode()[:20], 1]
  return np.outer(tokens, np.linspace(0.5, 2, WIDTH)).astype(np.float32)


def load():
  return lambda captions: [made(caption) for caption in captions]


def embed(captions, check, **options):
  with apache_beam.Pipeline(runner="DirectRunner") as pipeline:
    found = (
      pipeline
      | apache_beam.Create(captions)
      | apache_beam.BatchElements(min_batch_size=2, max_batch_size=4)
      | apache_beam.ParDo(beam.make_embed_fn(load, **options))
    )
    util.assert_that(found, check)


def test_every_caption_is_embedded_once():
  def check(elements):
    assert sorted(e["caption"] for e in elements) == sorted(CAPTIONS)
    for element in elements:
      expected = made(element["caption"]).astype(ml_dtypes.bfloat16)
      assert element["tokens"] == len(expected)
      np.testing.assert_array_equal(beam.states(element), expected)

  embed(CAPTIONS, check)


def test_the_recipe_writes_parquet(tmp_path):
  pyarrow = pytest.importorskip("pyarrow", reason="pip install pyarrow")
  parquet = pytest.importorskip("pyarrow.parquet", reason="as above")
  (tmp_path / "captions.txt").write_text("a cat\na dog\na cat\n")
  schema = pyarrow.schema(
    [
      ("caption", pyarrow.string()),
      ("tokens", pyarrow.int32()),
      ("embedding", pyarrow.binary()),
    ]
  )
  with apache_beam.Pipeline(runner="DirectRunner") as pipeline:
    _ = (
      pipeline
      | apache_beam.io.ReadFromText(str(tmp_path / "captions*.txt"))
      | apache_beam.Distinct()
      | apache_beam.BatchElements(min_batch_size=64, max_batch_size=512)
      | apache_beam.ParDo(beam.make_embed_fn(load))
      | apache_beam.io.WriteToParquet(str(tmp_path / "embeddings"), schema)
    )
  (path,) = tmp_path.glob("embeddings*")
  rows = parquet.read_table(path).to_pylist()
  assert sorted(row["caption"] for row in rows) == ["a cat", "a dog"]
  for row in rows:
    expected = made(row["caption"]).astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(beam.states(row), expected)


def test_a_wrong_embedding_would_be_seen():
  def check(elements):
    (element,) = elements
    found = beam.states(element, dtype=np.float32)
    assert found.shape == (len("cat") + 1, WIDTH)
    np.testing.assert_array_equal(found, made("cat"))
    assert np.abs(found - made("cats")[:4]).max() > 1

  embed(["cat"], check, dtype=np.float32)


def test_the_encoder_is_loaded_once_a_process():
  loaded = []

  def load_once():
    loaded.append(1)
    return load()

  fns = [beam.make_embed_fn(load_once)] * 3
  for fn in fns:
    fn.setup()
  assert len(loaded) == 1
  assert [e["tokens"] for e in fns[2].process(["ab", ""])] == [3, 1]


def test_a_caption_without_states_is_an_error():
  fn = beam.make_embed_fn(lambda: lambda captions: [])
  fn.setup()
  with pytest.raises(ValueError, match="shorter"):
    list(fn.process(["a cat"]))


def test_what_to_install(monkeypatch):
  monkeypatch.setitem(sys.modules, "apache_beam", None)
  with pytest.raises(errors.BadInput, match="pip install apache-beam"):
    beam.make_embed_fn(load)
