"""What a run says of itself, and what it refuses to be continued as."""

import json

import pytest
from etils import epath

from imagen_jax.core import errors, files
from imagen_jax.train import record

CONFIG = {"seed": 1, "stage": {"prediction": "v", "fields": {"mult": (1, 2)}}}


def test_run_json_holds_config_versions_devices_and_hashes(tmp_path):
  record.write_run(epath.Path(tmp_path), CONFIG, {"data": "abc"})
  run = json.loads((tmp_path / "run.json").read_text())
  assert run["config"]["seed"] == 1 and run["hashes"] == {"data": "abc"}
  assert {"python", "jax", "flax"} <= run["versions"].keys()
  assert run["devices"] and {"revision", "dirty"} == run["git"].keys()
  assert run["config_hash"] == record.config_hash(CONFIG)


def test_the_hash_of_a_config_is_that_of_its_values():
  other = {"stage": dict(CONFIG["stage"]), "seed": 1}
  assert record.config_hash(other) == record.config_hash(CONFIG)
  assert record.config_hash(CONFIG | {"seed": 2}) != record.config_hash(CONFIG)


def test_a_workdir_of_another_stage_is_refused_and_names_the_field(tmp_path):
  workdir = epath.Path(tmp_path)
  record.check_same_stage(workdir, CONFIG)
  record.write_run(workdir, CONFIG, {})
  record.check_same_stage(workdir, CONFIG)
  changed = CONFIG | {"stage": CONFIG["stage"] | {"prediction": "eps"}}
  with pytest.raises(errors.BadInput, match=r"stage.prediction = 'v'.*'eps'"):
    record.check_same_stage(workdir, changed)


def test_events_are_one_line_each(tmp_path):
  record.event(epath.Path(tmp_path), "save", 3)
  record.event(epath.Path(tmp_path), "exit", 4, "done")
  rows = list(files.read_jsonl(tmp_path / "events.jsonl"))
  assert [(r["event"], r["step"]) for r in rows] == [("save", 3), ("exit", 4)]
  assert rows[1]["reason"] == "done"
