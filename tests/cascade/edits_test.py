"""Edits of a whole cascade: what is exact, and what is refused."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.cascade import edits, pipeline, runner
from imagen_jax.core import errors
from tests import tiny_cascade

N = 2
FAR = 0.02


@pytest.fixture(scope="module")
def tiny():
  return tiny_cascade.in_memory()


@pytest.fixture(scope="module", autouse=True)
def few_programs():
  """One step a call, whatever the number of steps: fewer to compile."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(runner, "_STEPS_A_CALL", 1)
    yield


@pytest.fixture(scope="module")
def stages(tiny):
  return tiny[0].stages


def picture(h=32, w=32, seed=5):
  draw = np.random.default_rng(seed)
  return draw.uniform(-1, 1, (h, w, 3)).astype(np.float32)


def a_mask():
  """A part that no 2x2 block of the base is aligned to."""
  mask = np.zeros((32, 32), bool)
  mask[5:20, 9:30] = True
  return mask


def run(tiny, edit=edits.NONE, *, n=N, stage=1, progress=None):
  draw = np.random.default_rng(1)
  emb = draw.normal(size=(n, tiny_cascade.LENGTH, 8)).astype(np.float32)
  parts = pipeline.chunks(
    *tiny,
    emb,
    np.ones(emb.shape[:2], bool),
    pipeline.image_keys(jax.random.key(3), jnp.arange(n)),
    batch_size=N,
    edit=edit,
    progress=progress,
  )
  return np.concatenate([part.images for part in parts if part.stage == stage])


@pytest.fixture(scope="module")
def text_alone(tiny):
  return run(tiny)


def test_strength_0_is_the_image_and_1_is_text_alone(tiny, stages, text_alone):
  image = picture()
  make = functools.partial(edits.image_to_image, stages, image)
  for made in (
    run(tiny, make(strength=[0.0, 0.0])),
    run(tiny, make(strength=[1.0, 0.0])),
  ):
    np.testing.assert_array_equal(made, np.stack([image] * N))
  np.testing.assert_array_equal(
    run(tiny, make(strength=[1.0, 1.0])), text_alone
  )
  between = run(tiny, make(strength=[0.5, 0.5]))
  assert np.abs(between - image).max() > FAR
  assert np.abs(between - text_alone).max() > FAR
  assert np.abs(between[0] - between[1]).max() > FAR


@pytest.mark.parametrize("strength", [1.0, 0.6])
def test_known_pixels_are_exact_in_every_stage(tiny, stages, strength):
  image, mask = picture(), a_mask()
  edit = edits.inpaint(stages, image, mask, strength=[strength] * 2, resample=2)
  made = run(tiny, edit, n=3)  # the last chunk is filled up
  np.testing.assert_array_equal(made[:, ~mask], np.stack([image[~mask]] * 3))
  assert (np.abs(made - image).max(-1)[:, mask] > 1e-6).all()
  small = run(tiny, edit, stage=0)
  (shrunk,) = run(
    tiny, edits.image_to_image(stages, image, strength=[0.0, 0.0]), n=1, stage=0
  )
  known = np.ones((16, 16), bool)
  known[2:10, 4:15] = False  # all that the mask touches
  np.testing.assert_array_equal(small[:, known], np.stack([shrunk[known]] * N))
  assert (np.abs(small - shrunk).max(-1)[:, ~known] > 1e-6).all()


def test_upscaling_is_the_last_stage_alone(tiny, stages, text_alone):
  small = run(tiny, stage=0)
  made = run(tiny, edits.upscale(stages, small[0]))
  np.testing.assert_array_equal(made[0], text_alone[0])
  assert np.abs(made[1] - text_alone[1]).max() > FAR


def test_any_size_is_enlarged(tiny, stages):
  edit = edits.with_tile(edits.upscale(stages, picture(7, 19)), stages, 16)
  made = run(tiny, edit, n=1)
  assert made.shape == (1, 14, 38, 3)
  assert np.abs(made).max() <= 1 and made.std() > 0.05


def test_one_tile_is_no_tiles(tiny, stages, text_alone):
  before = runner.advance._cache_size()
  for tile in (0, 32, 64):
    made = run(tiny, edits.with_tile(edits.NONE, stages, tile))
    np.testing.assert_array_equal(made, text_alone)
  assert runner.advance._cache_size() == before


def test_outpainting_keeps_the_image_within_a_larger_one(tiny, stages):
  image = picture()
  edit = edits.outpaint(stages, image, (9, 0, 4, 5), resample=2)
  made = run(tiny, edit, n=1)
  assert made.shape == (1, 37, 45, 3)
  np.testing.assert_array_equal(made[0, :32, 9:41], image)
  around = np.ones((37, 45), bool)
  around[:32, 9:41] = False
  assert made[0, around].std() > 0.05
  assert run(tiny, edit, n=1, stage=0).shape == (1, 19, 23, 3)


def test_progress_counts_the_steps_taken(tiny, stages):
  told = []
  edit = edits.inpaint(
    stages, picture(), a_mask(), strength=[0.5, 0.0], resample=2
  )
  run(tiny, edit, progress=lambda *now: told.append(now))
  assert told == [*(("base", i, 3) for i in range(4)), ("sr", 0, 0)]


def bad(stages):
  ok = {"strength": [1.0, 1.0], "resample": 1}
  image, mask = picture(), a_mask()
  return {
    "image is 16x16 and the cascade makes 32x32": lambda: edits.image_to_image(
      stages, picture(16, 16), strength=[1.0, 1.0]
    ),
    "image is 48x32": lambda: edits.inpaint(
      stages, picture(32, 48), mask, **ok
    ),
    "mask is 20x32 and the image 32x32": lambda: edits.inpaint(
      stages, image, mask[:, :20], **ok
    ),
    "mask is all white: nothing is kept": lambda: edits.inpaint(
      stages, image, np.ones_like(mask), **ok
    ),
    "mask is all black: nothing is repainted": lambda: edits.inpaint(
      stages, image, np.zeros_like(mask), **ok
    ),
    "strength is 1.5": lambda: edits.image_to_image(
      stages, image, strength=[1.0, 1.5]
    ),
    "1 strengths for 2 stages": lambda: edits.image_to_image(
      stages, image, strength=[1.0]
    ),
    "resample is 0": lambda: edits.inpaint(
      stages, image, mask, strength=[1.0, 1.0], resample=0
    ),
    "border of .0, 0, 0, 0. pixels": lambda: edits.outpaint(
      stages, image, (0, 0, 0, 0), resample=1
    ),
    "image is 17x32; the cascade makes": lambda: edits.outpaint(
      stages, picture(32, 16), (1, 0, 0, 0), resample=1
    ),
    "16384 a side is the most": lambda: edits.outpaint(
      stages, image, (0, 20000, 0, 0), resample=1
    ),
    "'base' enlarges nothing": lambda: edits.upscale(stages[:1], image),
    "tile is 9; it must be a multiple of 4": lambda: edits.with_tile(
      edits.NONE, stages, 9
    ),
  }  # fmt: skip


def test_bad_input_is_refused_in_one_line(stages):
  for message, call in bad(stages).items():
    with pytest.raises(errors.BadInput, match=message) as caught:
      call()
    assert "\n" not in str(caught.value)


def test_the_stage_for_an_images_size(stages):
  wide = [
    *stages,
    dataclasses.replace(
      stages[1], name="more", resolution=64, low_resolution=32
    ),
  ]
  for side, first in ((8, 1), (16, 1), (17, 2), (32, 2), (33, 2)):
    assert edits.upscale(wide, picture(side, 5)).first == first
