"""Every config builds, from shapes alone, and says what it is."""

import pytest

from configs import demo
from imagen_jax import build
from imagen_jax.cascade import stage as stage_lib
from imagen_jax.core import errors, tree
from imagen_jax.models import variants

ARGUMENTS = {
  "base": "demo_base_32",
  "base,gpu": "demo_base_64",
  "base,runlocal": "demo_base_32",
  "sr": "demo_sr_256",
  "sr,gpu": "demo_sr_256",
}


@pytest.mark.parametrize("argument", ARGUMENTS)
def test_the_demo_builds_with_its_exact_parameter_count(argument):
  config = demo.get_config(argument)
  stage = build.stage(config.stage)
  build.sampler(config.sampler)
  build.optimizer(config)
  count = tree.count(stage_lib.param_shapes(stage))
  assert count == variants.VARIANTS[ARGUMENTS[argument]].parameters


def test_the_low_resolution_of_sr_is_the_resolution_of_the_base():
  for mode in ("", ",gpu"):
    base, sr = (demo.get_config(name + mode).stage for name in ("base", "sr"))
    assert sr.low_resolution == base.resolution


def test_a_stage_config_survives_being_stored_as_json():
  config = demo.get_config("sr").stage
  assert build.stage(build.plain(config)) == build.stage(config)


def test_unknown_arguments_and_fields_name_the_known_ones():
  with pytest.raises(ValueError, match=r"base or sr.*gpu, runlocal"):
    demo.get_config("sr2")
  config = build.plain(demo.get_config("base").stage)
  with pytest.raises(errors.BadInput, match=r"stage.predicton.*prediction"):
    build.stage(config | {"predicton": "eps"})
  with pytest.raises(errors.BadInput, match="num_res_blocks"):
    build.stage(config | {"fields": config["fields"] | {"num_res_block": 2}})


@pytest.mark.parametrize(
  ("field", "wrong", "known"),
  [
    ("schedule", "cosin", "cosine"),
    ("prediction", "epsilon", "eps"),
    ("weighting", "snr", "min_snr"),
    ("network", "unet", "base_unet"),
  ],
)
def test_a_wrong_choice_lists_the_right_ones(field, wrong, known):
  config = build.plain(demo.get_config("base").stage)
  with pytest.raises(errors.BadInput, match=known):
    build.stage(config | {field: wrong})
