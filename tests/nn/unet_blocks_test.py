"""Levels of the Efficient U-Net: order, merging, shapes, the head."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.core import errors
from imagen_jax.nn import (
  attention_blocks,
  conditioning,
  convolution,
  param_init,
  resampling,
  resnet,
  unet_blocks,
)
from tests import random_params

LEVEL = unet_blocks.Block(
  8,
  num_res_blocks=1,
  self_attention=True,
  text_cross_attention=True,
  num_attention_heads=2,
)
OPTIONS = unet_blocks.Options()


def cond():
  return conditioning.Conditioning(
    random_params.normal(2, 5, seed=1),
    random_params.normal(2, 4, 6, seed=2),
    random_params.mask(4, 2, total=4),
  )


def parts(params, given):
  """The layers of a level one by one, as functions of the image."""
  block = resnet.ResNetBlock(8, shortcut_conv=True, skip_scale="residual")
  attend = attention_blocks.AttentionBlock(2, inner_mult=2)
  return (
    lambda x: jax.jit(block.apply)({"params": params["block_0"]}, x, given.emb),
    lambda x: jax.jit(attend.apply)(
      {"params": params["attention"]}, x, *given[1:]
    ),
  )


def test_a_dblock_halves_first():
  given, x = cond(), random_params.normal(2, 8, 8, 4)
  module = unet_blocks.DBlock(LEVEL, OPTIONS)
  params = random_params.params(module, x, given)
  block, attend = parts(params, given)
  conv = convolution.Conv(8, strides=(2, 2))
  expected = attend(block(conv.apply({"params": params["resample"]}, x)))
  got = jax.jit(module.apply)({"params": params}, x, given)
  assert got.shape == (2, 4, 4, 8)
  np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_a_ublock_merges_first_and_doubles_last():
  given, x = cond(), random_params.normal(2, 4, 4, 8)
  skip = random_params.normal(2, 4, 4, 6, seed=3)
  module = unet_blocks.UBlock(LEVEL, OPTIONS, 10)
  params = random_params.params(module, x, skip, given)
  block, attend = parts(params, given)
  h = attend(block(jnp.concatenate([x, skip], axis=-1)))
  conv = convolution.Conv(10)
  expected = conv.apply(
    {"params": params["resample"]}, resampling.enlarge_nearest(h)
  )
  got = jax.jit(module.apply)({"params": params}, x, skip, given)
  assert got.shape == (2, 8, 8, 10)
  np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
  "strides, size", [((1, 1), (8, 8)), ((2, 1), (4, 8)), ((4, 4), (2, 2))]
)
def test_strides_set_the_size_down_and_up(strides, size):
  given, x = cond(), random_params.normal(2, 8, 8, 8)
  level = unet_blocks.Block(8, strides=strides, num_res_blocks=1)
  down = unet_blocks.DBlock(level, OPTIONS)
  h, variables = jax.eval_shape(
    down.init_with_output, jax.random.key(0), x, given
  )
  assert h.shape == (2, *size, 8)
  assert ("resample" in variables["params"]) == (strides != (1, 1))
  up = unet_blocks.UBlock(level, OPTIONS, 8)
  out, variables = jax.eval_shape(
    up.init_with_output, jax.random.key(0), h, None, given
  )
  assert out.shape == x.shape
  assert ("resample" in variables["params"]) == (strides != (1, 1))
  assert "attention" not in variables["params"]


@pytest.mark.parametrize(
  "skip_merge, skip_scale, expected",
  [
    ("concat", "residual", [1, 2]),
    ("concat", "none", [1, 2]),
    ("concat", "unet", [1, 2 * 0.5**0.5]),
    ("add", "none", [3]),
    ("add", "residual", [3 * 0.5**0.5]),
    ("add", "unet", [3 * 0.5**0.5]),
  ],
)
def test_how_skips_are_merged(skip_merge, skip_scale, expected):
  one = jnp.ones((1, 1, 1, 1))
  options = unet_blocks.Options(skip_merge=skip_merge, skip_scale=skip_scale)
  got = unet_blocks.merge_skip(one, 2 * one, options)
  np.testing.assert_allclose(got[0, 0, 0], expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_head_is_zero_at_first_and_float32(dtype):
  h = random_params.normal(2, 4, 4, 8).astype(dtype)
  head = unet_blocks.Head(3)
  params = param_init.init_params(head, jax.random.key(0), (h,))
  out = head.apply({"params": params}, h)
  assert out.dtype == jnp.float32 and out.shape == (2, 4, 4, 3)
  assert (out == 0).all()
  params = random_params.params(head, h)
  assert (head.apply({"params": params}, h) != 0).all()


def test_a_row_of_a_config_is_a_block():
  row = {"channels": 8, "strides": [2, 1], "text_cross_attention": True}
  block = unet_blocks.Block.from_dict(row)
  assert block == unet_blocks.Block(
    8, strides=(2, 1), text_cross_attention=True
  )
  hash(block)  # as a field of a linen module must


def test_an_unknown_field_of_a_block_is_named():
  with pytest.raises(errors.BadInput, match=r"\['heads'\]; use \['channels'"):
    unet_blocks.Block.from_dict({"channels": 8, "heads": 2})
