"""The configs that start from trained weights fit the demo, and say how."""

import jax
import pytest

from configs import demo, dreambooth, finetune
from imagen_jax import build
from imagen_jax.cascade import stage as stage_lib
from imagen_jax.cli import arguments
from imagen_jax.cli import config as cli_config
from imagen_jax.core import tree
from imagen_jax.train import lora

ARGUMENTS = ("base", "sr", "base,gpu", "base,runlocal")


@pytest.mark.parametrize("argument", ARGUMENTS)
def test_finetune_is_the_demo_at_a_lower_rate(argument):
  anew, on = demo.get_config(argument), finetune.get_config(argument)
  for group in ("stage", "text", "data", "sampler"):
    assert on[group] == anew[group]
  build.optimizer(on)
  rates = [config.optimizer.learning_rate for config in (anew, on)]
  assert rates[1] == pytest.approx(rates[0] / 10)
  if "runlocal" in argument:
    assert on.train.steps == anew.train.steps
  else:
    assert 0 < on.optimizer.warmup_steps < on.train.steps < anew.train.steps


@pytest.mark.parametrize("name", ["base", "sr"])
def test_dreambooth_adapts_a_few_percent_of_the_stage(name):
  config = dreambooth.get_config(name)
  build.optimizer(config)
  shapes = stage_lib.param_shapes(build.stage(config.stage))
  adapters = jax.eval_shape(
    lambda key: lora.create(
      shapes, key, rank=config.lora.rank, rules=config.lora.rules
    ),
    jax.random.key(0),
  )
  assert 0.01 < tree.count(adapters) / tree.count(shapes) < 0.1


def test_full_trains_all_at_a_lower_rate():
  adapted, full = (dreambooth.get_config(a) for a in ("base", "base,full"))
  assert (adapted.lora.rank > 0, full.lora.rank) == (True, 0)
  assert full.optimizer.learning_rate < adapted.optimizer.learning_rate
  small = dreambooth.get_config("full,base,runlocal")
  assert (small.lora.rank, small.train.steps) == (0, 2)


def test_wrong_arguments_name_the_right_ones():
  for config in (finetune, dreambooth):
    with pytest.raises(ValueError, match="base or sr"):
      config.get_config("large")


def test_the_fields_can_be_set_from_the_command_line(tmp_path):
  parser = cli_config.add_flag(arguments.make("x", "x", examples=()))
  given = [
    "--config=configs/dreambooth.py:base",
    "--config.start.source=runs/x",
    "--config.start.fresh=conditioning/text_(norm|projection)/.*",
    "--config.data.subject.prompt=a photo of sks cat, sitting",
    r"--config.lora.rules=.*/conv_\d/kernel,stem/kernel",
  ]
  config = cli_config.parse(given, parser)[1]
  assert config.start.source == "runs/x"
  assert config.start.fresh == ("conditioning/text_(norm|projection)/.*",)
  assert config.data.subject.prompt == "a photo of sks cat, sitting"
  assert config.lora.rules == (r".*/conv_\d/kernel", "stem/kernel")
