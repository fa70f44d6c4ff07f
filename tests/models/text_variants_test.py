"""Text encoders by name: exact counts, and how small their programs are."""

import jax
import jax.numpy as jnp
import pytest

from imagen_jax.core import errors
from imagen_jax.models import text_variants


@pytest.mark.parametrize("name", text_variants.VARIANTS)
def test_counts_are_exact(name):
  module = text_variants.make(name)
  count = text_variants.parameter_count(module)
  assert count == text_variants.VARIANTS[name].parameters


def test_counts_of_t5_follow_from_the_sizes():
  for name, variant in text_variants.VARIANTS.items():
    if "t5" not in name:
      continue
    f = variant.fields
    d, heads = f["d_model"], f["num_heads"]
    matrices = 3 if f["feed_forward"] == "gated-gelu" else 2
    layer = 4 * d * heads * f["d_kv"] + matrices * d * f["d_ff"] + 2 * d
    total = f["vocab_size"] * d + 32 * heads + d + f["num_layers"] * layer
    assert total == variant.parameters, name


def test_the_papers_encoder():
  xxl = text_variants.VARIANTS["t5_v1_1_xxl"]
  assert xxl.parameters == 4_762_310_656
  assert text_variants.VARIANTS["flan_t5_xxl"] == xxl


def lowered(module):
  ids = jax.ShapeDtypeStruct((8, 128), jnp.int32)
  mask = jax.ShapeDtypeStruct((8, 128), jnp.bool_)
  shapes = jax.eval_shape(module.init, jax.random.key(0), ids, mask)
  return jax.jit(module.apply).lower(shapes, ids, mask)


def test_the_program_of_xxl_does_not_grow_with_layers():
  module = text_variants.make("t5_v1_1_xxl", dtype=jnp.bfloat16)
  full = lowered(module)
  assert full.out_info.shape == (8, 128, 4096)
  few = lowered(module.clone(num_layers=2)).as_text()
  assert abs(len(full.as_text()) - len(few)) < 0.01 * len(few)
  # BERT's does: its layers are written out.
  bert = text_variants.make("bert_base")
  short = lowered(bert.clone(num_hidden_layers=2)).as_text()
  long = lowered(bert.clone(num_hidden_layers=4)).as_text()
  assert len(long) > 1.5 * len(short)


def test_dtype_is_that_of_the_states():
  for name in ("t5_small", "bert_base"):
    out = lowered(text_variants.make(name, dtype=jnp.bfloat16)).out_info
    assert out.dtype == jnp.bfloat16


def test_an_unknown_name_is_refused():
  with pytest.raises(errors.BadInput, match=r"'t5_xxl'; did you mean"):
    text_variants.make("t5_xxl")
