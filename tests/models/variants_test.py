"""Exact sizes of all named networks, by tracing and by hand."""

import functools

import jax
import pytest

from imagen_jax.core import errors, tree
from imagen_jax.models import base_unet, variants
from imagen_jax.nn import unet_blocks

T = 4096  # width of T5-XXL's text

BASE_SIZES = {
  "base_32": (32, 9_424_387),
  "base_64": (64, 36_516_867),
  "base_128": (128, 143_730_691),
  "base_300m": (192, 321_649_667),
  "base_500m": (256, 570_273_795),
  "base_1b": (352, 1_075_782_147),
  "base_384": (384, 1_279_637_507),
  "base_2b": (512, 2_271_821_827),
}
SIZES = {name: size for name, (_, size) in BASE_SIZES.items()} | {
  "sr256_600m": 586_013_315,
  "sr1024_400m": 577_616_515,
  "sr256_add_skips": 582_570_883,
  "sr256_inner_1": 573_420_163,
  "sr256_emb_1024": 507_091_587,
  "sr256_emb_512": 476_286_595,
  "sr1024_emb_512": 472_088_195,
  "sr_tiny": 4_032_995,
  "demo_base_64": 8_941_827,
  "demo_base_32": 8_633_763,
  "demo_sr_256": 3_550_435,
}
PARTS_2B = {
  "conditioning/time_mlp": 5_246_976,
  "conditioning/text_norm": 8_192,
  "conditioning/text_projection": 8_390_656,
  "conditioning/text_pooling": 16_785_408 + 4_096,
  "conditioning/text_mlp": 8_392_704,
  "stem": 14_336,
  "block": 1_862_452_736,  # ResNet blocks, resampling ones included
  "attention": 370_511_872,
  "head": 14_851,
}
PARTS_300M = {
  "conditioning/time_mlp": 738_816,
  "conditioning/text_norm": 8_192,
  "conditioning/text_projection": 3_146_496,
  "conditioning/text_pooling": 2_362_368 + 1_536,
  "conditioning/text_mlp": 1_181_184,
  "stem": 5_376,
  "block": 262_011_456,
  "attention": 52_188_672,
  "head": 5_571,
}
PARTS_SR256 = {
  "conditioning/time_mlp": 4_460_544,
  "conditioning/aug_level_mlp": 4_460_544,
  "conditioning/text_norm": 8_192,
  "conditioning/text_projection": 4_195_328,
  "conditioning/text_pooling": 4_198_400 + 2_048,
  "conditioning/text_mlp": 6_295_552,
  "stem": 7_040,
  "down": 266_871_936,
  "down/attention": 12_598_272,
  "up": 270_313_472,
  "up/attention": 12_598_272,
  "head": 3_715,
}


@functools.cache
def shapes(name):
  """The parameters of a named network, as shapes."""
  module = variants.make(name)
  width = variants.VARIANTS[name].text_width
  inputs = variants.example_inputs(module, text_width=width)
  return jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]


def part(name, sr):
  """Which part of the specification's table a parameter belongs to."""
  first, second, *_ = name.split("/")
  if first == "conditioning":
    return f"{first}/{second}"
  if sr and first.startswith(("down", "up")):
    where = first.split("_")[0]
    return f"{where}/attention" if second == "attention" else where
  if "attention" in first:
    return "attention"
  return first if first in ("stem", "head") else "block"


def base_by_hand(d):
  """The specification's formulas for width d."""
  e = c = 4 * d
  widths = [d, 2 * d, 3 * d, 4 * d]

  def conv(ci, co):
    return 9 * ci * co + co

  def block(ci, co):
    shortcut = ci * co + co if ci != co else 0
    films = e * 2 * co + 2 * co
    return 2 * ci + conv(ci, co) + films + 2 * co + conv(co, co) + shortcut

  def attention(w):
    return 2 * w + 2 * c + 4 * (w * w + w) + 2 * (c * w + w)

  h, skips = d, [d]
  total = d * e + e + e * e + e + 2 * T + T * c + c  # time, text
  total += 4 * (c * c + c) + 2 * c + c * e + e + e * e + e  # pooled text
  total += 27 * d + d
  for level, w in enumerate(widths):
    for _ in range(3):
      total += block(h, w) + (attention(w) if level else 0)
      h = w
      skips.append(h)
    if level < 3:
      total += block(h, h)
      skips.append(h)
  total += 2 * block(h, h) + attention(h)
  for level, w in reversed(list(enumerate(widths))):
    for _ in range(4):
      total += block(h + skips.pop(), w) + (attention(w) if level else 0)
      h = w
    total += block(h, h) if level else 0
  assert not skips
  return total + 2 * d + 27 * d + 3


@pytest.mark.parametrize("name", SIZES)
def test_size_is_exact(name):
  assert tree.count(shapes(name)) == SIZES[name]
  assert variants.VARIANTS[name].parameters == SIZES[name]


def test_every_named_network_is_tested():
  assert set(SIZES) == set(variants.VARIANTS)


@pytest.mark.parametrize("name", BASE_SIZES)
def test_base_sizes_follow_from_the_formulas(name):
  width, size = BASE_SIZES[name]
  assert variants.make(name).embed_dim == width
  assert base_by_hand(width) == size


@pytest.mark.parametrize(
  "name, parts",
  [
    ("base_2b", PARTS_2B),
    ("base_300m", PARTS_300M),
    ("sr256_600m", PARTS_SR256),
  ],
)
def test_sizes_of_the_parts(name, parts):
  found = dict.fromkeys(parts, 0)
  for path, leaf in tree.flatten(shapes(name)).items():
    found[part(path, name.startswith("sr"))] += leaf.size
  assert found == parts


def test_the_base_has_36_residual_and_22_attention_blocks():
  names = shapes("base_2b")
  attention = [name for name in names if "attention" in name]
  blocks = [name for name in names if "block" in name or "resample" in name]
  assert (len(blocks), len(attention)) == (36, 22)
  assert names["down_1_attention_0"]["query"]["kernel"].shape == (1024, 1024)


def test_parameter_count_counts():
  count = variants.parameter_count(variants.make("sr_tiny"), text_width=T)
  assert count == SIZES["sr_tiny"]
  narrow = variants.parameter_count(variants.make("sr_tiny"), text_width=384)
  assert narrow == SIZES["demo_sr_256"]


def test_every_network_has_bfloat16_as_an_option_and_float32_parameters():
  leaves = jax.tree.leaves(shapes("sr_tiny"))
  assert {leaf.dtype.name for leaf in leaves} == {"float32"}
  module = variants.make("sr_tiny", {"dtype": "bfloat16"})
  assert module.dtype == "bfloat16"


def test_overrides_replace_fields_and_lists_become_tuples():
  module = variants.make("base_32", {"channel_mult": [1, 2], "remat": "blocks"})
  assert isinstance(module, base_unet.BaseUNet)
  assert (module.embed_dim, module.channel_mult) == (32, (1, 2))
  assert module.remat == "blocks"
  hash(module)
  row = {"channels": 8, "strides": [2, 2], "num_res_blocks": 1}
  module = variants.build("efficient_unet", {"blocks": [row]})
  assert module.blocks == (unet_blocks.Block(8, num_res_blocks=1),)
  hash(module)


def test_making_leaves_the_table_alone():
  before = dict(variants.VARIANTS["base_32"].fields)
  variants.make("base_32", {"embed_dim": 64})
  assert variants.VARIANTS["base_32"].fields == before


def test_unknown_names_come_with_suggestions():
  for make, message in (
    (
      lambda: variants.make("base_2B"),
      "'base_2B'; did you mean .*'base_2b'[?]",
    ),
    (lambda: variants.make("nothing"), r"unknown network 'nothing'; use one o"),
    (lambda: variants.build("unet", {}), "'unet'; use one of .*'base_unet'"),
    (
      lambda: variants.make("base_32", {"embed_dims": 8}),
      "base_unet has no field 'embed_dims'; did you mean 'embed_dim'",
    ),
    (
      lambda: variants.make("base_32", {"parent": None}),
      "base_unet has no field 'parent'",
    ),
  ):
    with pytest.raises(errors.BadInput, match=message):
      make()
