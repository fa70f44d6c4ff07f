"""Sampling flags: one value for all stages, or one for each; and configs."""

import pytest

from imagen_jax import api
from imagen_jax.cli import arguments, config, stage_settings
from imagen_jax.core import errors
from tests import tiny_cascade


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
  return tiny_cascade.write_folder(tmp_path_factory.mktemp("tiny") / "cascade")


@pytest.fixture
def settings(weights):
  """The settings of both stages after some flags."""

  def apply(*argv: str):
    parser = arguments.make("sample", "Samples.", examples=[])
    stage_settings.add_flags(parser)
    args = arguments.parse(argv, parser)
    return api.check(stage_settings.apply(api.describe(weights), args))

  return apply


def test_without_flags_the_stages_keep_their_own(settings):
  base, sr = settings()
  assert (base.steps, base.guidance_weight, base.sampler) == (
    4,
    2.0,
    "dpm_solver_pp",
  )
  assert (sr.steps, sr.aug_level, sr.sampler) == (3, 0.1, "ancestral")


def test_one_value_is_for_all_stages(settings):
  base, sr = settings("--steps=9", "--sampler=ddim", "--percentile=99")
  assert base.steps == sr.steps == 9
  assert base.sampler == sr.sampler == "ddim"
  assert base.percentile == sr.percentile == 99.0
  assert base.guidance_weight == 2.0 and sr.guidance_weight == 1.0


def test_values_by_stage(settings):
  base, sr = settings(
    "--steps=9, 5", "--guidance_weight=,1.5", "--threshold=static,",
    "--gamma=0.2,0.3", "--eta=,0.4", "--spacing=logsnr,",
  )  # fmt: skip
  assert (base.steps, sr.steps) == (9, 5)
  assert (base.guidance_weight, sr.guidance_weight) == (2.0, 1.5)
  assert (base.threshold, sr.threshold) == ("static", "dynamic")
  assert (base.gamma, sr.gamma) == (0.2, 0.3)
  assert (base.eta, sr.eta) == (0.0, 0.4)
  assert (base.spacing, sr.spacing) == ("logsnr", "uniform")


def test_one_aug_level_is_for_the_stages_that_enlarge(settings):
  base, sr = settings("--aug_level=0.3")
  assert (base.aug_level, sr.aug_level) == (0.0, 0.3)


@pytest.mark.parametrize(
  ("text", "message"),
  [("1,2,3", "3 values for 2 stages"), ("a", "'a' is not a"), ("", "no value")],
)
def test_wrong_values_are_named(text, message):
  with pytest.raises(errors.BadInput, match=f"--steps.*{message}"):
    stage_settings.parse_values("--steps", text, int, ("base", "sr"))


def from_config(weights, *argv: str):
  parser = config.add_flag(arguments.make("sample", "Samples.", examples=[]))
  spec = f"--config=configs/cascade.py:{weights}"
  return api.describe(config.parse([spec, *argv], parser)[1])


def test_a_config_names_weights_and_settings(weights):
  assert from_config(weights) == api.describe(weights)
  base, sr = api.check(
    from_config(
      weights, "--config.samplers.base.steps=11", "--config.samplers.sr.eta=1"
    )
  )
  assert (base.steps, sr.steps, sr.eta) == (11, 3, 1.0)


def test_a_config_may_name_a_preset(weights):
  few, many = (
    api.check(from_config(f"{weights},{name}", "--config.samplers.sr.gamma=1"))
    for name in ("few", "many")
  )
  assert [(one.sampler, one.steps) for one in few] == [
    ("sde_dpm_solver_pp", 16),
    ("dpm_solver_pp", 8),
  ]
  assert [one.steps for one in many] == [256, 128]
  own = api.check(from_config(weights))
  assert [one.guidance_weight for one in few] == [
    one.guidance_weight for one in own
  ]
  assert few[1].gamma == 1.0 != own[1].gamma
  with pytest.raises(errors.BadInput, match="'fewer' is no preset; use one of"):
    from_config(f"{weights},fewer")


def test_a_config_may_name_stage_files(weights):
  names = ",".join(str(weights / f"{n}.safetensors") for n in ("base", "sr"))
  description = from_config("", f"--config.files={names}")
  assert description.names == ("base", "sr")


def test_configs_of_other_things_are_refused(weights):
  with pytest.raises(errors.BadInput, match="samplers.nothing is of no stage"):
    samplers = {"nothing": {"steps": 3}}
    api.describe({"weights": str(weights), "samplers": samplers})
  with pytest.raises(errors.BadInput, match="seed is no field of a cascade's"):
    api.describe({"seed": 0})
  with pytest.raises(errors.BadInput, match=r"sampler\.stps is not a field"):
    samplers = {"base": {"stps": 3}}
    api.check(api.describe({"weights": str(weights), "samplers": samplers}))
  with pytest.raises(errors.BadInput, match="'base': .* wrong type"):
    samplers = {"base": {"guidance_weight": "high"}}
    api.check(api.describe({"weights": str(weights), "samplers": samplers}))
