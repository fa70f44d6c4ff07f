"""FLOPs by hand, by XLA, and what they make of the hardware's peak."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax import build
from imagen_jax.cascade import stage as stage_lib
from imagen_jax.train import flops
from tests import tiny_cascade

STAGES = [build.stage(config) for config in tiny_cascade.stage_configs(8)]


def count(function, *shapes):
  arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
  return flops.count(jax.make_jaxpr(function)(*arrays).jaxpr)


def conv(x, kernel, groups=1):
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    (2, 2),
    "SAME",
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
    feature_group_count=groups,
  )


def test_a_product_and_a_convolution_are_counted_by_hand():
  assert count(jnp.dot, (3, 5), (5, 7)) == 2 * 3 * 5 * 7

  def attention(q, k):
    return jnp.einsum("bqnk,bsnk->bnqs", q, k)

  assert count(attention, (2, 4, 3, 8), (2, 5, 3, 8)) == 2 * 2 * 3 * 4 * 5 * 8
  assert count(conv, (2, 8, 8, 6), (3, 3, 6, 10)) == 2 * (2 * 16 * 10) * 9 * 6

  def grouped(x, kernel):
    return conv(x, kernel, 2)

  assert count(grouped, (2, 8, 8, 6), (3, 3, 3, 10)) == 2 * 320 * 9 * 3


def test_what_is_elementwise_costs_nothing():
  assert count(lambda x: jnp.exp(x) + x.sum(), (64, 64)) == 0


def test_loops_and_nested_functions_are_counted():
  square = ((4, 4), (4, 4))
  once = count(jnp.dot, *square)

  def loop(x, y):
    return jax.lax.scan(lambda c, _: (c @ y, None), x, length=6)[0]

  def branch(x, y):
    return jax.lax.cond(x[0, 0] > 0, lambda: x @ y @ y, lambda: x @ y)

  assert count(loop, *square) == 6 * once
  assert count(jax.checkpoint(jax.jit(jnp.dot)), *square) == once
  assert count(branch, *square) == 2 * once


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_a_stage_costs_what_xla_says(stage):
  def run(params, image, level, cond):
    return stage_lib.denoise_fn(stage, params)(image, level, cond)

  side, length = stage.resolution, 6
  cond = {
    "text_emb": jnp.zeros((1, length, stage.text_width)),
    "text_mask": jnp.ones((1, length), bool),
  }
  if stage.low_resolution:
    low = stage.low_resolution
    cond |= {"x_lr": jnp.zeros((1, low, low, 3)), "aug_level": jnp.zeros(1)}
  lowered = jax.jit(run).lower(
    stage_lib.param_shapes(stage),
    jnp.zeros((1, side, side, 3)),
    jnp.zeros(1),
    cond,
  )
  found = flops.forward_flops(stage, length=length)
  # XLA adds what is elementwise, and leaves out products with padding.
  np.testing.assert_allclose(found, lowered.cost_analysis()["flops"], rtol=0.05)
  longer = flops.forward_flops(stage, length=60)
  assert longer > found


def test_memory_saved_is_no_work_of_the_model():
  base = STAGES[0]
  module = dataclasses.replace(base.module, remat="blocks")
  saving = dataclasses.replace(base, module=module)
  assert flops.forward_flops(saving, length=6) == flops.forward_flops(
    base, length=6
  )


def test_a_crop_costs_its_share_of_the_image():
  sr = STAGES[1]
  whole, quarter = (
    flops.forward_flops(sr, length=6, resolution=side) for side in (32, 16)
  )
  assert 0.2 < quarter / whole < 0.35  # attention and text do not scale with it


def test_peaks_are_known_by_the_names_that_jax_gives_devices():
  known = {
    "TPU v4": 275,
    "TPU v5 lite": 197,
    "TPU v5p": 459,
    "TPU v6 lite": 918,
    "NVIDIA A100-SXM4-80GB": 312,
    "NVIDIA H100 80GB HBM3": 989,
    "NVIDIA H100 PCIe": 756,
    "NVIDIA H200": 989,
  }
  for kind, tera in known.items():
    assert flops.peak_flops(kind) == tera * 1e12
  assert flops.peak_flops("cpu") is None


def test_mfu_is_the_share_of_the_peak_of_all_devices():
  row = flops.rates(11e12, 100.0, devices=8, device_kind="TPU v4")
  np.testing.assert_allclose(row["tflops_per_device"], 137.5)
  np.testing.assert_allclose(row["mfu"], 0.5)
  assert "mfu" not in flops.rates(1e9, 1.0, devices=1, device_kind="cpu")
