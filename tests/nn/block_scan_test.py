"""A loop over equal blocks is the blocks one after the other."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.core import tree
from imagen_jax.models import base_unet, efficient_unet
from imagen_jax.nn import block_scan, unet_blocks
from tests import random_params


class Turns(nn.Module):
  """Dense layers of the given widths, each on h and what it takes."""

  widths: tuple[int, ...]
  scan: bool
  rate: float = 0.0

  @nn.compact
  def __call__(self, h, taken):
    rate = self.rate

    class Layer(nn.Module):
      @nn.compact
      def __call__(self, x):
        x = nn.Dense(x.shape[-1], name="dense")(x)
        return nn.Dropout(rate, deterministic=False)(x) if rate else x

    def step(blocks, h, one):
      h = blocks["layer"](jnp.concatenate([h, one], -1))[..., : h.shape[-1]]
      return h, h.sum()

    names = [{"layer": f"layer_{i}"} for i in range(len(self.widths))]
    return block_scan.run(
      self, {"layer": Layer}, names, step, h, taken, scan=self.scan
    )


def turns(widths, **options):
  """(module, params, h, taken): widths are those of what each turn takes."""
  h = random_params.normal(1, 2, 2, 3)
  taken = [random_params.normal(1, 2, 2, w, seed=w) for w in widths]
  module = Turns(tuple(widths), **options)
  params = random_params.params(Turns(tuple(widths), False), h, taken)
  return module, params, h, taken


def loops(function, *given):
  """The lengths of the scans in a program, in order."""
  jaxpr = jax.make_jaxpr(function)(*given).jaxpr
  return [
    equation.params["length"]
    for equation in jaxpr.eqns
    if equation.primitive.name == "scan"
  ]


def test_each_turn_takes_and_gives_its_own():
  module, params, h, taken = turns([2, 2, 2, 1, 2, 4, 4], scan=True)
  plain = module.clone(scan=False)
  got, gave = module.apply({"params": params}, h, taken)
  want, wanted = plain.apply({"params": params}, h, taken)
  np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)
  np.testing.assert_allclose(gave, wanted, rtol=1e-5, atol=1e-6)
  assert len(set(np.asarray(wanted).tolist())) == 7
  # Only neighbours that are equal: 3 of width 2, and 2 of width 4.
  assert loops(module.apply, {"params": params}, h, taken) == [3, 2]
  assert loops(plain.apply, {"params": params}, h, taken) == []


def test_each_turn_draws_its_own_dropout():
  module, params, h, taken = turns([2, 2], scan=True, rate=0.5)
  same = {f"layer_{i}": params["layer_0"] for i in range(2)}

  def gave(seed):
    rngs = {"dropout": jax.random.key(seed)}
    return module.apply({"params": same}, h, [taken[0]] * 2, rngs=rngs)

  (one, sums), (again, _), (other, _) = gave(0), gave(0), gave(1)
  np.testing.assert_array_equal(one, again)
  assert np.abs(one - other).max() > 0.1 and sums[0] != sums[1]


def base(levels=2, count=3, **options):
  return base_unet.BaseUNet(
    8,
    image_size=16,
    channel_mult=(1, 2)[:levels],
    num_res_blocks=count,
    attn_resolutions=(16, 8),
    text_cross_attn_res=(8,),
    per_head_channels=8,
    **options,
  )


def super_resolution(levels=2, count=3, **options):
  block = unet_blocks.Block(8, num_res_blocks=count)
  return efficient_unet.EfficientUNet(
    (block,) * levels, cond_embed_dim=8, text_embed_dim=8, **options
  )


def inputs(module):
  given = (
    random_params.normal(1, 4, 4, 3),
    jnp.asarray([1.0]),
    random_params.normal(1, 3, 8, seed=1),
    random_params.mask(2, total=3),
  )
  if not module.low_resolution_cond:
    return given
  return (*given, random_params.normal(1, 1, 1, 3), jnp.ones(1))


def shapes(module):
  given = inputs(module)
  return jax.eval_shape(module.init, jax.random.key(0), *given)["params"]


@pytest.mark.parametrize(
  ("make", "lengths"),
  [
    # On the way down the first block of a level widens h, unless it is as wide
    # as the stem; on the way up, the last takes the skip of the level above,
    # and the first of any but the last level the h of the one below.
    (base, [3, 2, 3, 3]),
    # On the way up, the finer level's first takes the skip as well.
    (super_resolution, [3, 3, 3, 2]),
  ],
)
def test_parameters_are_the_same_and_equal_blocks_one_loop(make, lengths):
  plain, looped = make(), make(scan_blocks=True)
  assert tree.diff(shapes(looped), shapes(plain)) == ""

  def found(network):
    def run(params):
      return network.apply({"params": params}, *inputs(plain))

    return loops(run, shapes(plain))

  assert found(looped) == lengths and found(plain) == []


def test_results_and_gradients_are_the_same():
  plain = base(1, 2)
  looped = base(1, 2, scan_blocks=True, remat="full")
  given = inputs(plain)
  params = random_params.params(plain, *given)

  def gradient(network):
    def loss(params):
      out = network.apply({"params": params}, *given)
      return jnp.sin(out).sum(), out

    grad = jax.jit(jax.grad(loss, has_aux=True))
    return jax.device_get(grad(params))

  (grads, out), (other, same) = gradient(plain), gradient(looped)
  np.testing.assert_allclose(same, out, rtol=0, atol=1e-5 * np.abs(out).max())
  for one, two in zip(
    jax.tree.leaves(grads), jax.tree.leaves(other), strict=True
  ):
    # Of the largest entry, or 1: a key's bias has none but rounding.
    scale = np.abs(one).max() + 1
    np.testing.assert_allclose(two / scale, one / scale, rtol=0, atol=1e-4)


def test_super_resolution_gives_the_same():
  plain, looped = (super_resolution(1, 2, scan_blocks=s) for s in (False, True))
  given = inputs(plain)
  params = random_params.params(plain, *given)
  one, other = (
    jax.jit(network.apply)({"params": params}, *given)
    for network in (plain, looped)
  )
  assert np.abs(one).max() > 0.1
  np.testing.assert_allclose(other, one, rtol=0, atol=1e-5 * np.abs(one).max())


def test_the_more_is_computed_again_the_less_is_kept():
  def kept(remat):
    network = base(1, 2, remat=remat)
    given = (random_params.normal(1, 16, 16, 3), *inputs(network)[1:])

    def run(params):
      return network.apply({"params": params}, *given)

    back = jax.eval_shape(lambda p: jax.vjp(run, p)[1], shapes(network))
    return sum(leaf.size for leaf in jax.tree.leaves(back))

  none, blocks, full = map(kept, ("none", "blocks", "full"))
  assert full < 0.8 * blocks and blocks < 0.5 * none
