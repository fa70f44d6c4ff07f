"""Every ablation of the paper builds, at demo and at paper scale."""

import importlib

import pytest

from imagen_jax import build
from imagen_jax.cascade import stage as stage_lib
from imagen_jax.cli import evaluate_ablate
from imagen_jax.core import tree
from imagen_jax.text import encoders

MODULES = {
  name: importlib.import_module(f"configs.ablations.{name}")
  for name in evaluate_ablate.NAMES
}
ARMS = [
  (name, arm, scale)
  for name, module in MODULES.items()
  for scale in ("", "paper")
  for arm in module.get_config(scale).arms
]


def config_of(name, arm, scale):
  return MODULES[name].get_config(
    ",".join(word for word in (arm, scale) if word)
  )


@pytest.mark.parametrize(("name", "arm", "scale"), ARMS)
def test_arms_are_training_configs(name, arm, scale):
  config = config_of(name, arm, scale)
  build.stage(config.stage)
  build.sampler(config.sampler)
  build.optimizer(config)
  assert config == MODULES[name].get_config(scale).arms[arm]
  enlarges = name in ("noise_augmentation", "efficient_unet")
  sides = (64, 256) if scale else (16, 32)
  assert config.stage.resolution == sides[enlarges]


@pytest.mark.parametrize("scale", ["", "paper"])
def test_efficient_and_plain_networks_are_of_one_size(scale):
  counts = [
    tree.count(
      stage_lib.param_shapes(
        build.stage(config_of("efficient_unet", arm, scale).stage)
      )
    )
    for arm in ("unet", "efficient")
  ]
  assert 0.85 < counts[0] / counts[1] < 1.15


def test_arms_differ_only_in_what_is_compared():
  fields = [
    build.plain(config_of("noise_augmentation", arm, ""))
    for arm in ("with", "without")
  ]
  levels = [plain["stage"].pop("max_aug_level") for plain in fields]
  assert levels == [1.0, 0.0] and fields[0] == fields[1]


def test_the_width_of_text_is_that_of_the_encoder():
  for arm, config in MODULES["text_encoder"].get_config("paper").arms.items():
    network = encoders.network(config.text.encoder)
    assert encoders._width(network) == config.stage.text_width, arm


def test_an_unknown_arm_lists_the_known_ones():
  with pytest.raises(ValueError, match="mean, attention, cross"):
    MODULES["conditioning"].get_config("max")
