"""A whole CLIP: agreement with transformers' outputs, from pixels to score."""

import pathlib
import shutil

import jax
import numpy as np
import pytest

from imagen_jax.core import errors
from imagen_jax.evals import clip_features, clip_input, clip_score
from imagen_jax.models import clip
from imagen_jax.weights import hf_clip, hf_clip_vision, readers, rules
from tests.models import clip_test

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "clip"
END = 98  # the end token of the golden vocabulary, and padding


@pytest.fixture(scope="module")
def golden():
  return dict(np.load(GOLDEN / "io.npz"))


def run(golden, dtype):
  """(image embeddings, image states, text embeddings), not normalised."""
  vision = hf_clip_vision.load(GOLDEN, dtype=dtype)
  x = golden["pixel_values"].transpose(0, 2, 3, 1).astype(dtype)
  seen = jax.jit(lambda p, x: vision.module.apply({"params": p}, x))(
    vision.params, x
  )
  text, params = clip_test.load_golden(
    "model.safetensors", dtype, folder=GOLDEN
  )
  ids = golden["input_ids"].astype(np.int32)
  ends = (ids == END).argmax(axis=1)
  mask = np.arange(ids.shape[1])[None] <= ends[:, None]
  states = np.asarray(clip_test.applied(text)(params, ids, mask))
  pooled = states[np.arange(len(ids)), ends]
  return seen, pooled @ vision.text_projection.astype(dtype)


@pytest.mark.parametrize(("dtype", "suffix"), [("f4", ""), ("f8", "_f64")])
def test_equals_transformers(golden, dtype, suffix):
  with jax.enable_x64(dtype == "f8"):
    seen, texts = run(golden, np.dtype(dtype))
    seen = jax.tree.map(np.asarray, seen)
  tolerance = 5e-5 if dtype == "f4" else 1e-8
  for ours, name in (
    (seen.states, "vision_last_hidden_state"),
    (seen.embedding, "image_projection_unnormalised"),
    (clip_score.unit(seen.embedding), "image_embeds"),
    (clip_score.unit(texts), "text_embeds"),
  ):
    theirs = golden[name + suffix]
    np.testing.assert_allclose(ours, theirs, atol=tolerance, rtol=0)
    assert theirs.std() > 1000 * tolerance
  scores = 100 * np.maximum(clip_score.cosines(seen.embedding, texts), 0)
  np.testing.assert_allclose(
    scores, golden["clip_score_100max0cos"], atol=5e-3, rtol=0
  )


@pytest.mark.parametrize("name", ["tall", "small"])
def test_pixels_are_prepared_as_the_processor_does(name):
  stored = np.load(GOLDEN / "preprocess.npz")
  ours = clip_input.prepare(stored[f"{name}_uint8"], 32)
  theirs = stored[f"{name}_pixel_values_32"].transpose(1, 2, 0)
  np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=0)
  wide = clip_input.prepare(stored[f"{name}_uint8"].transpose(1, 0, 2), 32)
  np.testing.assert_allclose(wide.transpose(1, 0, 2), theirs, atol=0.06)


def test_a_folder_with_a_tokenizer_judges_captions(tmp_path, golden):
  for name in ("config.json", "model.safetensors"):
    shutil.copy(GOLDEN / name, tmp_path / name)
  # A tokenizer of ten words: begin 97, end 98.
  words = {f"w{i}</w>": i for i in range(10)}
  words |= {"<|startoftext|>": 97, "<|endoftext|>": 98}
  import tokenizers

  made = tokenizers.Tokenizer(
    tokenizers.models.WordLevel(
      {w.removesuffix("</w>"): i for w, i in words.items()},
      unk_token="<|endoftext|>",
    )
  )
  made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
  made.post_processor = tokenizers.processors.TemplateProcessing(
    single="<|startoftext|> $A <|endoftext|>",
    special_tokens=[("<|startoftext|>", 97), ("<|endoftext|>", 98)],
  )
  made.save(str(tmp_path / "tokenizer.json"))
  judge = clip_features.load(tmp_path)
  captions = ["w1 w2", "w3", "w1 w2 w3 w4"]
  found = clip_features.embed_texts(judge, captions)
  alone = clip_features.embed_texts(judge, captions[1:2])
  np.testing.assert_allclose(found[1], alone[0], atol=1e-5)
  ids = np.full((1, 77), END, np.int32)
  ids[0, :3] = 97, 3, 98
  text, params = clip_test.load_golden(
    "model.safetensors", np.float32, folder=GOLDEN
  )
  states = clip_test.applied(text)(params, ids, np.ones((1, 77), bool))
  expected = np.asarray(states)[0, 2] @ judge.text_projection
  np.testing.assert_allclose(found[1], expected, atol=5e-5)
  x = golden["pixel_values"].transpose(0, 2, 3, 1)
  out = jax.jit(judge.network.apply)(judge.network.params, x)["embedding"]
  np.testing.assert_allclose(
    out, golden["image_projection_unnormalised"], atol=5e-5
  )


def test_every_value_is_placed_by_one_tower_or_the_other():
  tensors = readers.read_safetensors(GOLDEN / "model.safetensors").arrays
  config = readers.read_json(GOLDEN / "config.json")
  shapes = hf_clip_vision.shapes_of(hf_clip_vision.module(config))
  vision = rules.apply(hf_clip_vision.RULES, tensors, shapes)
  text = clip_test.shapes_of(hf_clip.module(config))
  placed = len(vision) + len(rules.apply(hf_clip.RULES, tensors, text))
  assert placed == len(tensors) - 2  # text projection and temperature


def test_wrong_sizes_and_text_towers_are_refused():
  config = readers.read_json(GOLDEN / "config.json")
  with pytest.raises(errors.BadInput, match="pixels are 8x8.*reads 32x32"):
    module = hf_clip_vision.module(config)
    jax.eval_shape(module.init, jax.random.key(0), np.zeros((1, 8, 8, 3)))
  with pytest.raises(errors.BadInput, match="by a whole CLIP"):
    hf_clip_vision.module({"model_type": "clip_text_model"})
  bad = config | {"vision_config": {"hidden_act": "relu"}}
  with pytest.raises(errors.BadInput, match="hidden_act='relu'"):
    hf_clip_vision.module(bad)
  large = hf_clip_vision.module(
    {
      "model_type": "clip",
      "projection_dim": 768,
      "vision_config": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "patch_size": 14,
      },
    }
  )
  assert isinstance(large, clip.ClipVision)
  shapes = hf_clip_vision.shapes_of(large).values()
  # ViT-L/14's image tower: 303,179,776 and the projection of 1024 x 768.
  assert sum(int(np.prod(shape)) for shape in shapes) == 303_966_208
