"""What a run says of itself, and what it refuses to be continued as."""

import copy
import json

import PIL
import PIL.features
import pytest
from etils import epath

from configs import demo as demo_config
from imagen_jax import build
from imagen_jax.core import errors
from imagen_jax.train import record

CONFIG = {"seed": 1, "stage": {"prediction": "v", "fields": {"mult": (1, 2)}}}


def test_run_json_holds_config_versions_devices_and_hashes(tmp_path):
  record.write_run(epath.Path(tmp_path), CONFIG, {"data": "abc"})
  run = json.loads((tmp_path / "run.json").read_text())
  assert run["config"]["seed"] == 1 and run["hashes"] == {"data": "abc"}
  assert {"python", "jax", "flax"} <= run["versions"].keys()
  assert run["devices"] and {"revision", "dirty"} == run["git"].keys()
  assert run["config_hash"] == record.config_hash(CONFIG)


def test_run_json_names_what_decodes_images(tmp_path):
  record.write_run(epath.Path(tmp_path), CONFIG, {})
  versions = json.loads((tmp_path / "run.json").read_text())["versions"]
  assert versions["pillow"] == PIL.__version__
  assert versions["libjpeg-turbo"] == PIL.features.version("libjpeg_turbo")
  assert versions["libjpeg-turbo"]  # as in all wheels of Pillow


def test_the_hash_of_a_config_is_that_of_its_values():
  other = {"stage": dict(CONFIG["stage"]), "seed": 1}
  assert record.config_hash(other) == record.config_hash(CONFIG)
  assert record.config_hash(CONFIG | {"seed": 2}) != record.config_hash(CONFIG)


def demo():
  hashes = {"data": "d0", "encoder": "e0"}
  return {"config": build.plain(demo_config.get_config("sr")), "hashes": hashes}


# Twenty ways to go on as another run: field, and its new value.
MUTATIONS = {
  "config.seed": 7,
  "config.stage.prediction": "eps",
  "config.stage.weighting": "v",
  "config.stage.schedule": "linear",
  "config.stage.resolution": 64,
  "config.stage.low_resolution": 16,
  "config.stage.residual": False,
  "config.stage.max_aug_level": 1.0,
  "config.stage.text_drop_rate": 0.2,
  "config.stage.dtype": "bfloat16",
  "config.stage.fields": {"width": 1},
  "config.text.encoder": "t5",
  "config.text.max_length": 77,
  "config.data.name": "photos",
  "config.data.crop": 32,
  "config.optimizer.name": "adafactor",
  "config.optimizer.learning_rate": 1e-4,
  "config.train.batch_size": 8,
  "config.train.ema_decay": 0.99,
  "config.train.steps": 10,
  "hashes.data": "d1",
  "hashes.encoder": "e1",
}


def changed(run, name, value):
  """A copy of `run` where `name` has `value`."""
  *parents, last = name.split(".")
  run = copy.deepcopy(run)
  node = run
  for parent in parents:
    node = node[parent]
  assert node[last] != value
  node[last] = value
  return run


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_changed_field_is_named_with_both_values_and_the_flag(name):
  now = changed(demo(), name, MUTATIONS[name])
  field = name.removeprefix("config.")
  with pytest.raises(errors.BadInput, match="checkpoint is of another") as info:
    record.check_resume(demo(), now, set())
  assert f"--allow_change={field}" in str(info.value)
  assert f"is now {record._ABSENT!r} (--a" in str(info.value) or repr(
    MUTATIONS[name]
  ) in str(info.value)
  record.check_resume(demo(), now, {field})
  record.check_resume(demo(), now, {field.split(".")[0]})  # a whole section


def test_the_message_has_the_old_value_and_the_new_one():
  now = changed(demo(), "config.seed", 7)
  with pytest.raises(
    errors.BadInput, match=r"seed was 0 and is now 7 \(--allow_change=seed\)"
  ):
    record.check_resume(demo(), now, {"stage", "see", "seed.x"})


def test_a_field_that_is_new_or_gone_is_a_change():
  now = demo()
  now["config"]["data"]["flip"] = True
  with pytest.raises(
    errors.BadInput, match="flip was 'absent' and is now True"
  ):
    record.check_resume(demo(), now, set())
  with pytest.raises(
    errors.BadInput, match="flip was True and is now 'absent'"
  ):
    record.check_resume(now, demo(), set())


def test_what_decides_nothing_may_change_and_steps_may_grow():
  now = demo()
  steps = now["config"]["train"]["steps"]
  now["config"]["train"] |= {"steps": steps + 1, "log_every": 1, "keep": 9}
  now["config"]["train"] |= {"checkpoint_every": 3, "keep_best": 1}
  now["config"]["preview"] = {"every": 0}
  now["config"]["sampler"]["steps"] = 99
  record.check_resume(demo(), now, set())


def test_tuples_and_lists_are_the_same_to_a_resume():
  now = demo()
  now["config"]["stage"]["fields"] = {
    name: tuple(value) if isinstance(value, list) else value
    for name, value in now["config"]["stage"]["fields"].items()
  }
  record.check_resume(demo(), now, set())


def test_run_json_is_read_as_a_checkpoint_keeps_it(tmp_path):
  workdir = epath.Path(tmp_path)
  assert record.read_run(workdir) is None
  record.write_run(workdir, CONFIG, {"data": "abc"})
  run = record.read_run(workdir)
  assert run.keys() == {"config", "config_hash", "hashes"}
  record.check_resume(run, {"config": CONFIG, "hashes": {"data": "abc"}}, set())


def test_a_run_of_before_there_were_adapters_goes_on_without_them():
  hashes = {"data": "d"}
  before = {"config": {"seed": 0}, "hashes": hashes}
  lora = {"rank": 0, "alpha": 16.0, "rules": ["a", "b"]}
  config = {"seed": 0, "start": {"required": False}, "lora": lora}
  record.check_resume(before, {"config": config, "hashes": hashes}, ())
  lora["rank"] = 4
  with pytest.raises(errors.BadInput, match=r"lora\.rank was 'absent'"):
    record.check_resume(before, {"config": config, "hashes": hashes}, ())
