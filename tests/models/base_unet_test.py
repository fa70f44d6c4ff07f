"""The base U-Net: text, padding, the start at zero, precision, sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.core import errors, tree
from imagen_jax.models import base_unet
from imagen_jax.nn import param_init
from tests import random_params

L, WIDTH = 5, 8


def module(**options):
  fields = {
    "embed_dim": 8,
    "image_size": 16,
    "channel_mult": (1, 2),
    "num_res_blocks": 1,
    "attn_resolutions": (8,),
    "text_cross_attn_res": (8,),
    "per_head_channels": 8,
  }
  return base_unet.BaseUNet(**(fields | options))


def inputs(size=(16, 16)):
  """z_t, logsnr, text_emb, and a mask of 5 and no real tokens."""
  return (
    random_params.normal(2, *size, 3),
    jnp.asarray([1.0, -2.0]),
    random_params.normal(2, L, WIDTH, seed=1),
    random_params.mask(L, 0, total=L),
  )


def trace(network, *given):
  """(output, parameters), as shapes."""
  out, variables = jax.eval_shape(
    network.init_with_output, jax.random.key(0), *given
  )
  return out, variables["params"]


@pytest.fixture(scope="module")
def params():
  return random_params.params(module(), *inputs())


def jitted(network):
  """(params, *inputs) -> output."""
  apply = jax.jit(network.apply)
  return lambda params, *given: apply({"params": params}, *given)


@pytest.fixture(scope="module")
def apply():
  return jitted(module())


def gradient(network, params):
  """The output, and gradients to parameters, z_t and text_emb."""
  z_t, logsnr, text_emb, mask = inputs()

  def loss(params, z_t, text_emb):
    out = network.apply({"params": params}, z_t, logsnr, text_emb, mask)
    return jnp.sin(out).sum(), out

  grad = jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))
  return jax.device_get(grad(params, z_t, text_emb))


@pytest.fixture(scope="module")
def gradients(params):
  return gradient(module(), params)


def test_a_new_network_returns_exactly_zero(apply):
  new = param_init.init_params(module(), jax.random.key(0), inputs())
  assert (apply(new, *inputs()) == 0).all()


def test_each_input_moves_its_own_example(apply, params):
  z_t, logsnr, text_emb, mask = inputs()
  before = apply(params, z_t, logsnr, text_emb, mask)
  for changed in (
    (z_t.at[0, 3, 3].add(1), logsnr, text_emb, mask),
    (z_t, logsnr.at[0].add(1), text_emb, mask),
    (z_t, logsnr, text_emb.at[0, 1].multiply(-1), mask),
    (z_t, logsnr, text_emb, mask.at[0, 1].set(False)),
  ):
    after = apply(params, *changed)
    np.testing.assert_array_equal(after[1], before[1])
    assert np.abs(after[0] - before[0]).max() > 1e-3


def test_padding_has_no_influence(apply, params):
  z_t, logsnr, text_emb, _ = inputs()
  mask = random_params.mask(2, 0, total=L)
  before = apply(params, z_t, logsnr, text_emb, mask)
  other = jnp.where(mask[:, :, None], text_emb, jnp.nan)
  after = apply(params, z_t, logsnr, other, mask)
  np.testing.assert_array_equal(after, before)
  assert jnp.isfinite(before).all()


def test_padding_has_no_gradient_and_all_else_has(gradients):
  (d_params, d_z_t, d_text), _ = gradients
  assert (d_text[1] == 0).all() and (d_text[0] != 0).any(axis=-1).all()
  assert (d_z_t != 0).any(axis=(1, 2, 3)).all()
  for name, leaf in tree.flatten(d_params).items():
    assert np.isfinite(leaf).all(), name
    # A key's bias moves all logits of a query alike.
    assert (leaf != 0).any() or name.endswith("key/bias"), name


def test_remat_changes_nothing(gradients, params):
  other = gradient(module(remat="blocks"), params)
  for one, two in zip(
    jax.tree.leaves(gradients), jax.tree.leaves(other), strict=True
  ):
    # Of the largest entry, or 1: a key's bias has none but rounding.
    scale = np.abs(one).max() + 1
    np.testing.assert_allclose(two / scale, one / scale, rtol=0, atol=1e-4)


def two_pairs():
  """Tokens that LayerNorm leaves alone: two pairs of one mean."""
  rows = np.asarray(
    [
      [1, 1, 1, 1, -1, -1, -1, -1],
      [1, 1, -1, -1, 1, 1, -1, -1],
      [1, -1, 1, -1, 1, -1, 1, -1],
    ],
    np.float32,
  )
  mean, one, other = rows / 2**0.5
  pairs = np.stack([[mean + one, mean - one], [mean + other, mean - other]])
  return jnp.asarray(np.pad(pairs, ((0, 0), (0, L - 2), (0, 0))))


@pytest.mark.parametrize(
  "options, sees_beyond_the_mean",
  [
    ({}, True),
    ({"text_cross_attn_res": ()}, True),
    ({"text_cross_attn_res": (), "feature_pooling_type": "mean"}, False),
  ],
  ids=["cross-attention", "attention pooling", "mean pooling"],
)
def test_ways_of_conditioning_on_text(options, sees_beyond_the_mean, apply):
  network = module(**options)
  z_t, logsnr, text_emb, _ = inputs()
  z_t = jnp.stack([z_t[0], z_t[0]])
  logsnr = jnp.zeros(2)
  mask = random_params.mask(2, 2, total=L)
  params = random_params.params(network, z_t, logsnr, text_emb, mask)
  params["conditioning"]["text_norm"]["scale"] = jnp.ones(WIDTH)
  apply = jitted(network) if options else apply
  one, other = apply(params, z_t, logsnr, two_pairs(), mask)
  assert (np.abs(one - other).max() > 1e-3) == sees_beyond_the_mean
  # Tokens have no order, and the text is seen in every way.
  swapped = text_emb.at[0, :2].set(text_emb[0, 1::-1]).at[1].set(text_emb[0])
  one, other = apply(params, z_t, logsnr, swapped, mask)
  np.testing.assert_allclose(one, other, rtol=0, atol=1e-4)
  null = text_emb.at[1].set(0)
  one, other = apply(params, z_t, logsnr, null, mask)
  assert np.abs(one - other).max() > 1e-3
  names = " ".join(tree.flatten(params))
  assert ("text_key" in names) == (not options)


def test_bfloat16_is_for_the_computation_alone(apply, params):
  half = module(dtype=jnp.bfloat16)
  _, shapes = trace(half, *inputs())
  assert {leaf.dtype.name for leaf in jax.tree.leaves(shapes)} == {"float32"}
  out = jax.jit(half.apply)({"params": params}, *inputs())
  whole = apply(params, *inputs())
  assert out.dtype == whole.dtype == jnp.float32
  error = jnp.linalg.norm(out - whole) / jnp.linalg.norm(whole)
  assert 1e-4 < error < 0.1


def test_attention_is_where_the_resolutions_say():
  network = module(
    channel_mult=(1, 1, 1), attn_resolutions=(8,), text_cross_attn_res=(16, 8)
  )
  _, params = trace(network, *inputs())
  found = {
    name: ("key" in layer, "text_key" in layer)
    for name, layer in params.items()
    if "attention" in name
  }
  text, both, pixels = (False, True), (True, True), (True, False)
  assert found == {
    "down_0_attention_0": text,
    "down_1_attention_0": both,
    "mid_attention": pixels,
    "up_1_attention_0": both,
    "up_1_attention_1": both,
    "up_0_attention_0": text,
    "up_0_attention_1": text,
  }


def test_shapes_that_the_levels_divide_pass():
  out, _ = trace(module(out_channels=6), *inputs((24, 10)))
  assert out.shape == (2, 24, 10, 6) and out.dtype == jnp.float32


def test_with_x_lr_it_is_a_super_resolution_network():
  low = (random_params.normal(2, 4, 4, 3), jnp.ones(2))
  out, params = trace(module(low_resolution_cond=True), *inputs(), *low)
  assert out.shape == (2, 16, 16, 3)
  assert params["stem"]["kernel"].shape == (3, 3, 6, 8)
  assert "aug_level_mlp" in params["conditioning"]


def test_what_it_cannot_take_is_named():
  low = (random_params.normal(2, 4, 4, 3), jnp.ones(2))
  for network, given, message in (
    (
      module(),
      inputs((16, 15)),
      "width 15 is not divisible by 2; use 14 or 16",
    ),
    (module(), (*inputs(), *low), "takes no low-resolution image, given"),
    (module(low_resolution_cond=True), inputs(), "needs x_lr and aug_level"),
    (module(per_head_channels=3), inputs(), "16 channels at resolution 8 are"),
  ):
    with pytest.raises(errors.BadInput, match=message):
      trace(network, *given)
