"""T5, CLIP, BERT and T5X behind one `load`: lengths, precision, devices."""

import pathlib
import shutil
import tarfile

import jax
import numpy as np
import pytest

from imagen_jax.core import errors
from imagen_jax.text import devices, embedding, encoders, vocabularies
from tests import t5_vocabulary

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
T5 = GOLDEN / "t5" / "text_encoder"
WORDS = GOLDEN / "t5" / "tokenizer"
CAPTIONS = ["a photo of a red cat", "", "two dogs " * 9, "苹果", "a\r\nb \0 c"]


@pytest.fixture(scope="module")
def t5():
  return encoders.load(T5, 40, tokenizer=WORDS)


@pytest.fixture(scope="module")
def t5x_folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("t5x")
  with tarfile.open(GOLDEN / "t5x.tar.gz") as archive:
    archive.extractall(folder, filter="data")
  return folder / "t5x"


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory, tiny_folder):
  """The golden CLIP, with words of the tiny BERT that fit its 99 ids."""
  folder = tmp_path_factory.mktemp("clip")
  for name in ("config.json", "model.safetensors"):
    shutil.copy(GOLDEN / "clip_text" / name, folder)
  shutil.copy(tiny_folder / "tokenizer.json", folder)
  return folder


def test_lengths_are_those_of_the_family(t5x_folder, clip_folder, tiny_folder):
  assert encoders.preview(T5, tokenizer=WORDS).max_length == 128
  assert encoders.preview(clip_folder).max_length == 77
  assert encoders.preview(tiny_folder).max_length == 64  # all its positions
  checkpoint = t5x_folder / "f32" / "checkpoint_0"
  seen = encoders.preview(checkpoint, tokenizer=WORDS)
  assert (seen.max_length, seen.width) == (128, 48)
  assert seen.name == "f32/checkpoint_0"


def test_rows_are_the_states_of_real_tokens(t5):
  encoder, params = t5
  found = embedding.embed_rows(encoder, params, CAPTIONS, chunk_size=2)
  text_emb, text_mask = embedding.embed(encoder, params, CAPTIONS)
  tokens = encoders.tokenize(encoder, CAPTIONS)
  np.testing.assert_array_equal(text_mask, tokens.mask)
  for row, states, mask in zip(found.rows, text_emb, text_mask, strict=True):
    assert row.shape == (mask.sum(), 48)
    np.testing.assert_allclose(row, states[mask], atol=5e-6, rtol=0)
  assert np.abs(found.rows[0] - found.rows[2][: len(found.rows[0])]).max() > 0.1
  assert [bool(words) for words in found.tokens.cut] == [
    False, False, True, False, False,
  ]  # fmt: skip


def test_buckets_change_the_last_bits_alone(t5):
  """Padded to a bucket or to the whole length, in any company."""
  encoder, params = t5
  ids, mask = encoders.tokenize(encoder, CAPTIONS)
  encode = jax.jit(encoders.encode, static_argnums=0)
  whole = np.asarray(encode(encoder, params, ids, mask).text_emb)
  for size in (1, 2, 5):
    rows = embedding.embed_rows(encoder, params, CAPTIONS, chunk_size=size).rows
    for row, states, real in zip(rows, whole, mask, strict=True):
      np.testing.assert_allclose(row, states[real], atol=5e-6, rtol=0)


def test_t5x_and_hugging_face_are_one_encoder(t5x_folder):
  """The scanned layout has a bias of each layer, so it is another network."""
  for layout in ("f32", "f32_scanned"):
    checkpoint = t5x_folder / layout / "checkpoint_0"
    encoder, params = encoders.load(checkpoint, 24, tokenizer=WORDS)
    golden = np.load(t5x_folder / layout / "io.npz")
    ids, mask = golden["ids"].astype(np.int32), golden["mask"] > 0
    states = encoders.encode(encoder, params, ids, mask).text_emb
    error = np.abs(np.asarray(states) - golden["encoded"])[mask]
    assert error.max() < 1e-5
    assert np.abs(golden["encoded"][mask]).max() > 0.1


def test_a_precision_is_part_of_the_fingerprint(t5):
  prints = {"float32": t5[0].fingerprint}
  exact = embedding.embed(*t5, CAPTIONS).text_emb
  for precision, low, high in (
    ("bfloat16", 1e-4, 0.03),
    ("int8", 1e-3, 0.05),
  ):
    encoder, params = encoders.load(
      T5, 40, tokenizer=WORDS, precision=precision
    )
    prints[precision] = encoder.fingerprint
    near = embedding.embed(encoder, params, CAPTIONS).text_emb
    assert near.dtype == np.float32
    drift = np.sqrt(np.mean((near - exact) ** 2) / np.mean(exact**2))
    assert low < drift < high, (precision, drift)
  assert len(set(prints.values())) == 3
  assert all(p.startswith(prints["float32"]) for p in prints.values())


def test_cleaning_comes_before_the_tokens():
  plain, params = encoders.load(T5, 77, tokenizer=WORDS)
  lower, _ = encoders.load(T5, 77, tokenizer=WORDS, clean="lower")
  shouted, quiet = [" A RED Cat "], ["a red cat"]
  a = embedding.embed(lower, params, shouted).text_emb
  np.testing.assert_array_equal(a, embedding.embed(plain, params, quiet)[0])
  assert np.abs(a - embedding.embed(plain, params, shouted)[0]).max() > 0.1
  with pytest.raises(errors.BadInput, match=r"unknown cleaning 'lowre'.*lower"):
    encoders.load(T5, 77, tokenizer=WORDS, clean="lowre")


def test_penultimate_states_are_clips_alone(clip_folder):
  final, params = encoders.load(clip_folder)
  before, same = encoders.load(clip_folder, penultimate=True)
  assert before.fingerprint == final.fingerprint + "-penultimate"
  text = ["a red apple"]
  a = embedding.embed(final, params, text).text_emb
  b = embedding.embed(before, same, text).text_emb
  assert a.shape == b.shape == (1, 77, 48)
  assert np.abs(a - b).max() > 0.1
  with pytest.raises(errors.BadInput, match="is a t5; only CLIP"):
    encoders.load(T5, 40, tokenizer=WORDS, penultimate=True)


@pytest.mark.parametrize("tensor_parallel", [1, 2, 8])
def test_devices_give_what_one_gives(t5, tensor_parallel):
  layout = devices.layout(jax.devices(), tensor_parallel=tensor_parallel)
  assert layout.data == 8 // tensor_parallel
  encoder, params = encoders.load(
    T5, 40, tokenizer=WORDS, sharding=layout.params
  )
  kernel = params["layers"]["mlp"]["wi_0"]["kernel"]
  shares = {shard.data.shape for shard in kernel.addressable_shards}
  assert shares == {(3, 48, 96 // tensor_parallel)}
  found = embedding.embed_rows(
    encoder, params, CAPTIONS, chunk_size=8, sharding=layout.batch
  )
  expected = embedding.embed_rows(*t5, CAPTIONS, chunk_size=8)
  for a, b in zip(found.rows, expected.rows, strict=True):
    np.testing.assert_allclose(a, b, atol=5e-6, rtol=0)


def test_int8_weights_are_split_too():
  layout = devices.layout(jax.devices(), tensor_parallel=4)
  encoder, params = encoders.load(
    T5, 40, tokenizer=WORDS, precision="int8", sharding=layout.params
  )
  one = encoders.load(T5, 40, tokenizer=WORDS, precision="int8")
  out = params["layers"]["attention"]["out"]
  assert out["kernel_int8"].addressable_shards[0].data.shape == (3, 16, 48)
  assert out["kernel_scale"].addressable_shards[0].data.shape == (3, 48)
  a = embedding.embed_rows(
    encoder, params, CAPTIONS, chunk_size=2, sharding=layout.batch
  ).rows
  b = embedding.embed_rows(*one, CAPTIONS, chunk_size=2).rows
  for x, y in zip(a, b, strict=True):
    np.testing.assert_allclose(x, y, atol=0.06, rtol=0)  # bfloat16


def test_one_device_has_no_shardings():
  assert devices.layout(jax.devices()[:1]) == (None, None, 1)
  with pytest.raises(errors.BadInput, match=r"3 does not divide the 8.*1, 2"):
    devices.layout(jax.devices(), tensor_parallel=3)


def test_a_vocabulary_that_does_not_belong_is_refused():
  with pytest.raises(errors.BadInput, match=r"32100 ids, but.*256 only"):
    encoders.load(T5, tokenizer=vocabularies.T5)


def test_t5x_takes_the_vocabulary_of_t5(t5x_folder):
  """Its vocabulary of 160 cannot hold it, which shows that it was taken."""
  checkpoint = t5x_folder / "f32" / "checkpoint_0"
  with pytest.raises(errors.BadInput, match=r"32100 ids, but.*160 only"):
    encoders.load(checkpoint)


def test_an_unknown_precision():
  # The types would refuse it first; a config has no types.
  dtypes = encoders._dtypes.__wrapped__
  with pytest.raises(errors.BadInput, match=r"'fp16'; use float32, bfloat16"):
    dtypes("fp16")


def test_the_vocabulary_of_the_tests_is_the_real_one(tmp_path):
  t5_vocabulary.sentencepiece_model(tmp_path / "spiece.model")
  assert vocabularies.load(tmp_path).vocab_size == 32_000
