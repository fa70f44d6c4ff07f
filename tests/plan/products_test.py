"""FLOPs of products by XLA's own count, and of loops by hand."""

import jax
import jax.numpy as jnp
import pytest

from imagen_jax.plan import products

LOOP = """\
%fused.1 (p.1: bf16[4,8], p.2: bf16[8,16]) -> bf16[4,16] {
  %p.1 = bf16[4,8]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  %p.2 = bf16[8,16]{1,0:T(8,128)(2,1)} parameter(1)
  ROOT %convolution.1 = bf16[4,16]{1,0:T(8,128)(2,1)} convolution(%p.1, \
%p.2), dim_labels=bf_io->bf
}

%cond.1 (arg: (s32[], bf16[4,16])) -> pred[] {
  %constant.9 = s32[]{:T(128)} constant(5)
  ROOT %lt = pred[] compare(%i, %constant.9), direction=LT
}

%body.1 (arg: (s32[], bf16[4,16])) -> (s32[], bf16[4,16]) {
  %fusion.1 = bf16[4,16]{1,0} fusion(%a, %b), kind=kOutput, calls=%fused.1
}

ENTRY %main (p: bf16[4,8]) -> bf16[] {
  %dot.1 = f32[2,3]{1,0} dot(bf16[2,7]{1,0} %x, bf16[7,3]{1,0} %y), \
lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %while.1 = (s32[]) while(%t), condition=%cond.1, body=%body.1
}
"""


def test_turns_after_the_first_are_added():
  once = 2.0 * 4 * 8 * 16
  assert products.products(LOOP) == [("fused.1", once), ("main", 2 * 2 * 7 * 3)]
  assert products.of_more_turns(LOOP) == 4 * once


def conv(strides=(1, 1), padding="SAME", **options):
  def run(image, kernel):
    return jax.lax.conv_general_dilated(
      image,
      kernel,
      strides,
      padding,
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
      **options,
    )

  return run


CONVOLUTIONS = {
  "same": (conv(), 3, 6),
  "strided": (conv((2, 3)), 3, 6),
  "cropped": (conv((1, 2), ((-1, 2), (3, -2))), 3, 6),
  "apart": (conv(rhs_dilation=(2, 1), padding=((3, 0), (0, 0))), 3, 6),
  "between": (conv(lhs_dilation=(2, 3), padding=((2, 1), (1, 1))), 3, 6),
  "grouped": (conv((2, 1), feature_group_count=3), 3, 2),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("way", ["there", "to the image", "to the kernel"])
def test_convolutions_are_counted_as_xla_does(name, way):
  function, size, depth = CONVOLUTIONS[name]
  image = jax.ShapeDtypeStruct((2, 9, 8, 6), jnp.float32)
  kernel = jax.ShapeDtypeStruct((size, 2, depth, 12), jnp.float32)
  given = [image, kernel]
  run = function
  if way != "there":
    to = int(way == "to the kernel")

    def run(x, fixed, out):
      of = lambda x: function(fixed, x) if to else function(x, fixed)  # noqa: E731
      return jax.linear_transpose(of, x)(out)

    given = [given[to], given[1 - to], jax.eval_shape(function, *given)]
  lowered = jax.jit(run).lower(*given)
  found = products.products(lowered.as_text("hlo"))
  assert sum(flops for _, flops in found) == lowered.cost_analysis()["flops"]
