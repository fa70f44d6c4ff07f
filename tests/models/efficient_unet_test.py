"""The Efficient U-Net: low resolution, sizes, shifts, options."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.core import errors, tree
from imagen_jax.models import efficient_unet
from imagen_jax.nn import param_init, unet_blocks
from tests import random_params

L, WIDTH = 5, 8


def levels(*, stride=2, self_attention=True):
  """Two levels, as in Appendix F.2 (or F.3) but small."""
  strides = (stride, stride)
  fine = unet_blocks.Block(8, strides=strides, num_res_blocks=1)
  coarse = unet_blocks.Block(
    8,
    strides=strides,
    num_res_blocks=1,
    self_attention=self_attention,
    text_cross_attention=True,
    num_attention_heads=2,
  )
  return (fine, coarse)


def module(**options):
  fields = {"blocks": levels(), "cond_embed_dim": 8, "text_embed_dim": 8}
  return efficient_unet.EfficientUNet(**(fields | options))


def inputs(height=16, width=16):
  """z_t, logsnr, text_emb, mask (5 and no tokens), x_lr, aug_level."""
  return (
    random_params.normal(2, height, width, 3),
    jnp.asarray([1.0, -2.0]),
    random_params.normal(2, L, WIDTH, seed=1),
    random_params.mask(L, 0, total=L),
    random_params.normal(2, height // 4, width // 4, 3, seed=2),
    jnp.asarray([0.1, 0.4]),
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


@pytest.fixture(scope="module")
def apply():
  jitted = jax.jit(module().apply)
  return lambda params, *given: jitted({"params": params}, *given)


def gradient(network, params):
  """The output, and gradients to parameters, text_emb and x_lr."""
  z_t, logsnr, text_emb, mask, x_lr, aug_level = inputs()

  def loss(params, text_emb, x_lr):
    out = network.apply(
      {"params": params}, z_t, logsnr, text_emb, mask, x_lr, aug_level
    )
    return jnp.sin(out).sum(), out

  grad = jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))
  return jax.device_get(grad(params, text_emb, x_lr))


@pytest.fixture(scope="module")
def gradients(params):
  return gradient(module(), params)


def test_a_new_network_returns_exactly_zero(apply):
  new = param_init.init_params(module(), jax.random.key(0), inputs())
  assert (apply(new, *inputs()) == 0).all()


@pytest.mark.parametrize("index", range(6))
def test_each_input_moves_its_own_example(index, apply, params):
  given = list(inputs())
  before = apply(params, *given)
  if given[index].dtype == bool:
    given[index] = given[index].at[0, 1].set(False)
  else:
    given[index] = given[index].at[0].multiply(-0.5)
  after = apply(params, *given)
  np.testing.assert_array_equal(after[1], before[1])
  assert np.abs(after[0] - before[0]).max() > 1e-3


def test_padding_has_no_influence(apply, params):
  given = list(inputs())
  given[3] = random_params.mask(2, 0, total=L)
  before = apply(params, *given)
  given[2] = jnp.where(given[3][:, :, None], given[2], jnp.nan)
  np.testing.assert_array_equal(apply(params, *given), before)
  assert jnp.isfinite(before).all()


def test_padding_has_no_gradient_and_all_else_has(gradients):
  (d_params, d_text, d_x_lr), _ = gradients
  assert (d_text[1] == 0).all() and (d_text[0] != 0).any(axis=-1).all()
  assert (d_x_lr != 0).any(axis=-1).all()
  for name, leaf in tree.flatten(d_params).items():
    assert np.isfinite(leaf).all(), name
    # A key's bias moves all logits of a query alike.
    assert (leaf != 0).any() or name.endswith("key/bias"), name


def test_remat_encloses_every_block_and_changes_no_parameter():
  """That it changes no value is tested with the base and with the block."""

  def program(network):
    return str(jax.make_jaxpr(network.apply)({"params": shapes}, *inputs()))

  _, shapes = trace(module(), *inputs())
  _, remat = trace(module(remat="blocks"), *inputs())
  assert tree.diff(remat, shapes) == ""
  # Four residual blocks; attention on the way down and up.
  assert program(module(remat="blocks")).count("prevent_cse=") == 6
  # And around the residual blocks of each level, down and up.
  assert program(module(remat="full")).count("prevent_cse=") == 6 + 4
  assert "prevent_cse=" not in program(module())


def test_bfloat16_is_for_the_computation_alone():
  out, params = trace(module(dtype=jnp.bfloat16), *inputs())
  assert {leaf.dtype.name for leaf in jax.tree.leaves(params)} == {"float32"}
  assert out.dtype == jnp.float32
  program = str(
    jax.make_jaxpr(module(dtype=jnp.bfloat16).apply)(
      {"params": params}, *inputs()
    )
  )
  found = [line for line in program.split("\n") if "conv_general" in line]
  wide = [line for line in found if ":f32[" in line]
  assert len(found) > 10 and len(wide) == 1  # the head


def test_what_moves_by_the_stride_moves_the_output():
  """16 pixels, the paper's stride, but far from the zeros at the border.

  On a flat ground the statistics of GroupNorm do not move, and attention knows
  no places; 8 pixels fall between the coarsest pixels.
  """
  network = module(blocks=levels(stride=4, self_attention=False))
  patch, patch_lr = (
    random_params.normal(16, 16, 3),
    random_params.normal(4, 4, 3),
  )
  _, logsnr, text_emb, mask, _, aug_level = inputs()

  def scene(at):
    z_t = jnp.full((1, 16, 480, 3), 0.2).at[0, :, at : at + 16].set(patch)
    x_lr = jnp.full((1, 4, 120, 3), -0.3)
    x_lr = x_lr.at[0, :, at // 4 : at // 4 + 4].set(patch_lr)
    return z_t, logsnr[:1], text_emb[:1], mask[:1], x_lr, aug_level[:1]

  params = random_params.params(network, *scene(224))
  apply = jax.jit(network.apply)
  out, moved, between = (
    np.asarray(apply({"params": params}, *scene(at)))[0]
    for at in (224, 240, 232)
  )
  inside = slice(120, 344)
  scale = np.abs(out).max()
  error = np.abs(np.roll(moved, -16, axis=1) - out)[:, inside].max()
  assert error < 1e-4 * scale
  error = np.abs(np.roll(between, -8, axis=1) - out)[:, inside].max()
  assert error > 1e-2 * scale


def test_one_network_runs_at_any_size_that_it_divides(params):
  apply = jax.jit(module().apply)
  given = inputs(8, 20)
  out = apply({"params": params}, *given)
  assert out.shape == (2, 8, 20, 3) and jnp.isfinite(out).all()
  _, shapes = trace(module(), *given)
  assert tree.diff(shapes, params) == ""


def test_mean_pooling_alone_conditions_on_text():
  blocks = (levels()[0], unet_blocks.Block(8, num_res_blocks=1))
  network = module(blocks=blocks, feature_pooling_type="mean")
  given = list(inputs())
  params = random_params.params(network, *given)
  assert "text_key" not in " ".join(tree.flatten(params))
  apply = jax.jit(network.apply)
  before = apply({"params": params}, *given)
  given[2] = -given[2]
  after = apply({"params": params}, *given)
  assert np.abs(after[0] - before[0]).max() > 1e-3
  np.testing.assert_array_equal(after[1], before[1])


def test_merging_by_addition_saves_the_wider_convolutions():
  _, concat = trace(module(), *inputs())
  _, add = trace(module(skip_merge="add"), *inputs())
  fewer = 2 * 8 + 9 * 8 * 8 + 8 * 8  # norm_0, conv_0, shortcut of one block
  assert tree.count(concat) - tree.count(add) == fewer


def test_skip_scale_changes_the_output_and_no_parameter(apply, params):
  other = jax.jit(module(skip_scale="none").apply)
  out = other({"params": params}, *inputs())
  assert np.abs(out - apply(params, *inputs())).max() > 1e-3


def test_what_it_cannot_take_is_named():
  without = module(low_resolution_cond=False)
  for network, given, message in (
    (module(), inputs(18, 16), "height 18 is not divisible by 4; use 16 or 20"),
    (module(), inputs()[:4], "needs x_lr and aug_level, given neither"),
    (module(), inputs()[:5], r"needs x_lr and aug_level, given \['x_lr'\]"),
    (without, inputs(), "takes no low-resolution image, given"),
    (
      module(
        inner_mult=1, blocks=(unet_blocks.Block(12, self_attention=True),)
      ),
      inputs(),
      "12 attention channels are not divisible by 8 heads",
    ),
  ):
    with pytest.raises(errors.BadInput, match=message):
      trace(network, *given)
