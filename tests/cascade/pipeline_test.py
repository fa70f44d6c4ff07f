"""The cascade: what an image depends on, and what it does not."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.cascade import pipeline, runner
from imagen_jax.core import errors
from tests import tiny_cascade

# Other batch sizes are other programs: the same sums in another order.
CLOSE = {"atol": 1e-5, "rtol": 0}
FAR = 1e-2
N = 5


@pytest.fixture(scope="module")
def tiny():
  return tiny_cascade.in_memory()


@pytest.fixture(scope="module")
def text():
  draw = np.random.default_rng(1)
  mask = np.arange(tiny_cascade.LENGTH)[None] < np.arange(3, 3 + N)[:, None]
  emb = draw.normal(size=(*mask.shape, 8)).astype(np.float32)
  return emb * mask[:, :, None], mask


@pytest.fixture(scope="module")
def keys():
  return pipeline.image_keys(jax.random.key(3), jnp.arange(N))


def collect(parts, stage: int) -> np.ndarray:
  return np.concatenate([part.images for part in parts if part.stage == stage])


def run(tiny, text, keys, *, batch_size: int, rows=slice(None), stage: int = 1):
  emb, mask = text
  parts = pipeline.chunks(
    *tiny, emb[rows], mask[rows], keys[rows], batch_size=batch_size
  )
  return collect(list(parts), stage)


@pytest.fixture(scope="module")
def whole(tiny, text, keys):
  """All images in chunks of two; the last is filled up."""
  return run(tiny, text, keys, batch_size=2)


def test_images_are_in_range_finite_and_all_there(whole):
  assert whole.shape == (N, 32, 32, 3) and whole.dtype == np.float32
  assert np.abs(whole).max() <= 1.0
  assert whole.std() > 0.1


def test_an_image_does_not_depend_on_what_else_is_asked_for(
  tiny, text, keys, whole
):
  for i in (0, N - 1):
    alone = run(tiny, text, keys, batch_size=2, rows=slice(i, i + 1))
    np.testing.assert_allclose(alone[0], whole[i], **CLOSE)
  turned = run(tiny, text, keys, batch_size=2, rows=slice(None, None, -1))
  np.testing.assert_array_equal(turned[::-1][1:4], whole[1:4])


def test_an_image_depends_on_its_key(tiny, text, keys, whole):
  other = run(tiny, text, keys[::-1], batch_size=2)
  assert np.abs(other[0] - whole[0]).max() > FAR
  same = other[N // 2] - whole[N // 2]
  np.testing.assert_allclose(same, 0.0, **CLOSE)


def test_an_image_depends_on_its_text(tiny, text, keys, whole):
  emb, mask = text
  swapped = run(tiny, (emb[::-1], mask[::-1]), keys, batch_size=2)
  assert np.abs(swapped[0] - whole[0]).max() > FAR


def test_padding_of_the_text_is_not_read(tiny, text, keys, whole):
  emb, mask = text
  noisy = np.where(mask[:, :, None], emb, np.float32(5.0))
  np.testing.assert_allclose(
    run(tiny, (noisy, mask), keys, batch_size=2), whole, **CLOSE
  )


def test_guidance_of_zero_draws_the_negative_prompt(tiny, text, keys):
  """Eq. 2 at w = 0 is the other branch, with its text and its mask."""
  cascade, params = tiny

  def weighted(weight: float) -> pipeline.Cascade:
    return dataclasses.replace(
      cascade,
      settings=tuple(
        dataclasses.replace(own, guidance_weight=weight)
        for own in cascade.settings
      ),
    )

  emb, mask = text
  null = {"text_emb": emb[4], "text_mask": mask[4]}
  away = run(
    (weighted(0.0), params | {"null_text": null}), text, keys, batch_size=2
  )
  other = np.repeat(emb[4:], N, axis=0), np.repeat(mask[4:], N, axis=0)
  only = run((weighted(1.0), params), other, keys, batch_size=2)
  np.testing.assert_allclose(away, only, **CLOSE)
  assert np.abs(away - run(tiny, text, keys, batch_size=2)).max() > FAR


def test_a_fixed_program_has_the_same_bits_at_any_batch_size(tiny, text, keys):
  cascade = dataclasses.replace(tiny[0], images_a_program=1)
  many = [np.tile(x, (4, *[1] * (x.ndim - 1)))[:16] for x in text]
  keys = pipeline.image_keys(jax.random.key(3), jnp.arange(16))

  def draw(batch_size: int, rows=slice(None)):
    return run((cascade, tiny[1]), many, keys, batch_size=batch_size, rows=rows)

  whole = draw(16)
  np.testing.assert_array_equal(draw(7), whole)
  np.testing.assert_array_equal(draw(16, slice(5, 12)), whole[5:12])
  np.testing.assert_array_equal(draw(1, slice(15, 3, -4)), whole[15:3:-4])


def test_other_batch_sizes_are_close(tiny, text, keys, whole):
  for batch_size in (1, 4, 16):
    np.testing.assert_allclose(
      run(tiny, text, keys, batch_size=batch_size), whole, **CLOSE
    )


def test_chunks_equal_the_pure_function(tiny, text, keys, whole):
  cascade, params = tiny
  pure = jax.jit(pipeline.sample_stages, static_argnums=0)
  rows = slice(0, 2)
  base, last = pure(cascade, params, text[0][rows], text[1][rows], keys[rows])
  assert base.shape == (2, 16, 16, 3)
  np.testing.assert_allclose(last, whole[rows], **CLOSE)


def test_the_second_stage_sees_the_first(tiny, text, keys, whole):
  cascade, params = tiny
  other = params | {"base": jax.tree.map(lambda x: 0.5 * x, params["base"])}
  images = run((cascade, other), text, keys, batch_size=2)
  assert np.abs(images - whole).max() > FAR


def test_nothing_compiles_twice(tiny, text, keys, whole):
  before = runner.advance._cache_size()
  run(tiny, text, keys, batch_size=2, rows=slice(0, 3))
  equal = dataclasses.replace(tiny[0], settings=tuple(tiny[0].settings))
  run((equal, tiny[1]), text, keys, batch_size=2, rows=slice(1, 3))
  assert runner.advance._cache_size() == before


def test_progress_is_told_of_every_stage(tiny, text, keys):
  told = []
  emb, mask = text
  list(
    pipeline.chunks(
      *tiny, emb[:3], mask[:3], keys[:3], batch_size=2,
      progress=lambda *now: told.append(now),
    )
  )  # fmt: skip
  assert told == [
    ("base", 0, 8), ("base", 4, 8), ("base", 8, 8),
    ("sr", 0, 6), ("sr", 3, 6), ("sr", 6, 6),
  ]  # fmt: skip


@pytest.mark.parametrize("steps", [1, 3, 4, 7, 50, 64, 1000])
def test_calls_are_alike(steps: int):
  size = runner.steps_a_call(steps)
  assert steps % size == 0 and 1 <= size <= 4
  assert size == 4 or steps % 4


def test_weights_that_are_not_finite_are_named(tiny, text, keys):
  cascade, params = tiny
  broken = params | {
    "base": jax.tree.map(lambda x: x * jnp.nan, params["base"])
  }
  with pytest.raises(errors.NonFinite, match="'base'.*not finite"):
    run((cascade, broken), text, keys, batch_size=2)


def test_stages_that_do_not_fit_are_named(tiny, text, keys):
  cascade, _ = tiny
  base, sr = cascade.stages

  def check(**changes):
    pipeline.check(dataclasses.replace(cascade, **changes))

  check()
  with pytest.raises(errors.BadInput, match="2 stages and 1 settings"):
    check(settings=cascade.settings[:1])
  with pytest.raises(errors.BadInput, match="names .* must differ"):
    check(stages=(base, base))
  with pytest.raises(errors.BadInput, match="takes images of 16, but the"):
    check(stages=(sr, base))
  wide = dataclasses.replace(base, text_width=9)
  with pytest.raises(
    errors.BadInput, match="width 9, but encoder 'none' gives"
  ):
    check(stages=(wide, sr))
  wrong = dataclasses.replace(cascade.settings[0], steps=0)
  with pytest.raises(errors.BadInput, match="steps is 0"):
    check(settings=(wrong, cascade.settings[1]))
  with pytest.raises(errors.BadInput, match="batch_size is 0"):
    run(tiny, text, keys, batch_size=0)
