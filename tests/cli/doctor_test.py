"""`imagen doctor`: a healthy run, and runs that are ill in known ways."""

import json
import pathlib
import shutil
import zlib

import jax
import numpy as np
import pytest
from etils import epath

from configs import demo
from imagen_jax import build_training
from imagen_jax.cli import doctor, doctor_checks, doctor_patient
from imagen_jax.core import errors, images
from imagen_jax.data import pipeline
from imagen_jax.health import findings
from imagen_jax.text import embedded
from imagen_jax.train import checkpoints, loss_bands
from tests import image_sets, tiny_cascade


def embed(captions):
  """States that depend on the caption alone, without an encoder."""
  rows = [
    np.random.default_rng(zlib.crc32(c.encode())).normal(size=(6, 8))
    for c in captions
  ]
  return embedded.pad_rows([row.astype(np.float32) for row in rows], 8, 8)


def config():
  cfg = demo.get_config("base,runlocal")
  with cfg.unlocked():
    cfg.stage.update(tiny_cascade.stage_configs(8)[0])
    cfg.train.update({"steps": 4, "batch_size": 4, "checkpoint_every": 2})
    cfg.preview.every = 0
    cfg.mesh.devices = 1
  return cfg.lock()


@pytest.fixture(scope="module", autouse=True)
def no_encoder():
  with pytest.MonkeyPatch.context() as patch:
    text = build_training.Text(embed, "fingerprint of embed")
    patch.setattr(build_training, "text", lambda config: text)
    yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  """A run of four steps, with checkpoints of steps 2 and 4."""
  workdir = tmp_path_factory.mktemp("trained")
  build_training.train(config(), str(workdir))
  return workdir


@pytest.fixture
def run(trained, tmp_path):
  """The same, to be made ill."""
  return pathlib.Path(shutil.copytree(trained, tmp_path / "run"))


def examine(cfg, workdir=None, **options):
  """Findings by check; quick unless told otherwise."""
  options = doctor_patient.Options(**{"quick": True} | options)
  workdir = None if workdir is None else epath.Path(workdir)
  patient = doctor_patient.Patient(cfg, workdir, options)
  found = list(doctor_checks.examine(patient))
  assert len({finding.check for finding in found}) == len(found)
  return {finding.check: finding for finding in found}


@pytest.fixture
def no_overfit(monkeypatch):
  monkeypatch.delitem(doctor_checks.SECTIONS, "overfit")


def problems(found):
  return {n: f.error for n, f in found.items() if f.level == "problem"}


def test_a_healthy_run_has_no_problem(run):
  before = {path: path.read_bytes() for path in run.rglob("*.json*")}
  found = examine(config(), run, quick=False, overfit_steps=1)
  # Four steps are no training, and one step is not enough to learn.
  assert set(problems(found)) == {"overfit"}
  assert found["steps"].said == "4 trained; whole are 2, 4"
  for name in ("config", "pixels", "captions", "text", "same run", "leaves"):
    assert found[name].level == "ok", name
  for name in ("raw finite", "EMA finite", "raw moved", "EMA follows"):
    assert found[name].level == "ok", name
  assert "productive" in found["time"].said
  assert "not matter yet" in found["text used"].said
  sheet, _ = images.read_png(run / "samples" / "doctor.png")
  assert len(np.unique(sheet)) > 20
  assert before == {path: path.read_bytes() for path in run.rglob("*.json*")}


def test_without_a_workdir_the_rest_is_examined():
  found = examine(config())
  assert not problems(found)
  assert found["checkpoint"].level == found["overfit"].level == "skipped"


def test_overfitting_trains_the_stage_of_the_config():
  cfg = config()
  cfg.optimizer.learning_rate = 3e-2
  found = examine(cfg, quick=False, overfit_images=2, overfit_steps=30)
  found = found["overfit"].said
  first, last = found.split("from ")[1].split(" in ")[0].split(" to ")
  assert "on 2 images" in found and "in 30 steps" in found
  assert float(last) < 0.95 * float(first)


def test_a_fault_of_the_config_is_told_once():
  cfg = config()
  with cfg.unlocked():
    cfg.stage.prediction = "noise"
  found = examine(cfg)
  assert problems(found) == {"config": errors.BadInput}
  assert found["room"].said == "rests on a problem above"
  assert found["pixels"].level == "ok"


def test_images_in_0_to_255(monkeypatch):
  whole = pipeline.Pipeline.batch_at

  def raw(self, step):
    batch = whole(self, step)
    return batch | {"image": images.to_uint8(batch["image"]).astype("float32")}

  monkeypatch.setattr(pipeline.Pipeline, "batch_at", raw)
  found = examine(config())
  assert problems(found) == {"pixels": errors.DataError}
  assert "images in 0..255" in found["pixels"].said


def test_captions_that_are_not_in_the_store(monkeypatch):
  def absent(captions):
    raise errors.DataError("4 of 4 captions are not in the store; embed them.")

  text = build_training.Text(absent, "of a store")
  monkeypatch.setattr(build_training, "text", lambda config: text)
  found = examine(config())
  assert problems(found) == {"text": errors.DataError}


def test_every_batch_is_looked_up_in_a_store(monkeypatch):
  cfg = config()
  cfg.data.store = "a/store"
  assert examine(cfg)["store"].level == "ok"
  first = set(doctor_patient.build_data.source(cfg).batch_at(0)["caption"])

  def of_the_first(captions):
    if set(captions) - first:
      raise errors.DataError("captions are not in the store.")
    return embed(captions)

  text = build_training.Text(of_the_first, "of a store")
  monkeypatch.setattr(build_training, "text", lambda config: text)
  assert problems(examine(cfg)) == {"store": errors.DataError}


def test_sets_of_images(tmp_path):
  good = image_sets.write(tmp_path / "good", image_sets.make(8, sides=(32,)))
  cfg = config()
  with cfg.unlocked():
    cfg.data.update({"name": "images", "paths": (str(good),)})
  found = examine(cfg)
  assert not problems(found) and found["rejects"].level == "ok"
  assert "8 of 8 decode" in found["set good"].said
  shard = next(good.glob("*.array_record"))
  shard.write_bytes(shard.read_bytes()[:-1])
  assert set(problems(examine(cfg)).values()) == {errors.DataError}


def test_a_damaged_checkpoint_and_the_one_before(run, no_overfit):
  largest = max(
    (p for p in (run / "checkpoints" / "4").rglob("*") if p.is_file()),
    key=lambda path: path.stat().st_size,
  )
  largest.write_bytes(largest.read_bytes()[:-1])
  found = examine(config(), run, quick=False)
  assert problems(found)["damage"] is errors.CheckpointError
  assert found["leaves"].said.endswith("of step 2 fit")
  quick = examine(config(), run)
  assert quick["damage"].said.startswith("step 4")
  assert "step 2 if that is whole" in quick["damage"].remedy
  assert "leaves" not in quick


def test_a_config_of_another_run(run):
  cfg = config()
  cfg.optimizer.b1 = 0.5
  found = examine(cfg, run)
  assert problems(found) == {"same run": errors.BadInput}
  assert "optimizer.b1 was 0.9 and is now 0.5" in found["same run"].said


def test_a_config_of_another_network(run, no_overfit):
  cfg = config()
  with cfg.unlocked():
    cfg.stage.fields.embed_dim = 16
  found = examine(cfg, run, quick=False)
  assert found["leaves"].error is errors.BadInput
  assert "samples" not in found and "raw finite" not in found


def change(run, edit):
  """A step 6 whose state is `edit` of that of step 4."""
  patient = doctor_patient.Patient(
    config(), epath.Path(run), doctor_patient.Options()
  )
  saver = checkpoints.Checkpoints(run, keep=9)
  state = edit(saver.restore(patient.abstract, 4), patient)
  saver.save(6, state, wait=True)
  saver.close()


def test_parameters_that_are_not_numbers(run, no_overfit):
  change(
    run,
    lambda state, _: state.replace(
      params=jax.tree.map(lambda x: x * np.nan, state.params)
    ),
  )
  found = examine(config(), run, quick=False)
  assert found["raw finite"].error is errors.NonFinite
  assert found["EMA finite"].level == "ok"
  assert found["raw samples"].error is errors.NonFinite
  assert "EMA follows" not in found


def test_an_average_that_was_never_updated(run):
  change(
    run,
    lambda state, patient: state.replace(ema_params=patient.initial()),
  )
  found = examine(config(), run)
  assert problems(found) == {"EMA follows": errors.BadInput}


def test_a_stage_that_has_0_steps_trained(tmp_path):
  found = examine(config(), tmp_path)
  assert not problems(found)
  assert "the stage has 0 steps trained" in found["steps"].said


def test_losses_out_of_their_bands(run, tmp_path):
  rows = [
    json.loads(line)
    for line in (run / "metrics.jsonl").read_text().split("\n")[:-1]
  ]
  names = loss_bands.metrics.bin_names()
  seen = {name: row[name] for row in rows for name in names if name in row}
  path = tmp_path / "bands.json"

  def loss(factor, **of):
    bands = [{n: [factor * x / 9, factor * x * 9] for n, x in seen.items()}]
    bands[0]["step"] = 0
    loss_bands.write(path, loss_bands.Reference("these", of, bands))
    return examine(config(), run, bands=str(path))["loss"]

  assert loss(1.0).level == "ok"
  assert loss(0.01).level == "warning" and "too high" in loss(0.01).said
  assert loss(0.01, seed=1).level == "skipped"


def test_bands_are_shipped_by_config_stage_and_resolution(run, monkeypatch):
  asked = []
  monkeypatch.setattr(
    doctor_checks.pathlib.Path,
    "is_file",
    lambda path: asked.append(path.parts[-3:]),
  )
  examine(config(), run, config_name="demo")
  assert ("assets", "demo", "loss_bands_base_16.json") in asked


@pytest.mark.parametrize("stage", ["base", "sr"])
def test_the_bands_of_the_demo_are_shipped(tmp_path, stage):
  row = {"step": 300, "loss": 9.0}
  row |= dict.fromkeys(loss_bands.metrics.bin_names(), 9.0)
  (tmp_path / "metrics.jsonl").write_text(json.dumps(row) + "\n")
  cfg = demo.get_config(stage)
  found = examine(cfg, tmp_path, config_name="demo")["loss"]
  assert found.level == "warning" and "in a healthy run it is" in found.said
  cfg.train.batch_size = 2
  found = examine(cfg, tmp_path, config_name="demo")["loss"]
  assert found.level == "skipped" and "train.batch_size is 2" in found.said


def test_the_exit_code_is_that_of_the_worst_problem(monkeypatch, capsys):
  found = [
    findings.ok("disk", "much is free"),
    findings.problem("b1", "is odd", "set it", errors.BadInput),
    findings.problem("damage", "step 4", "copy it", errors.CheckpointError),
  ]
  monkeypatch.setattr(doctor.doctor_checks, "examine", lambda _: iter(found))
  line = ["--config=configs/demo.py:base,runlocal"]
  with pytest.raises(errors.CheckpointError, match="2 problems.*b1, damage"):
    doctor.run(line)
  shown = capsys.readouterr().out
  assert "PROBLEM  b1" in shown and "-> set it" in shown
  found[1:] = [findings.warning("disk", "is full", "free space")]
  doctor.run(line)
  assert "0 problems, 1 warning, 1 ok" in capsys.readouterr().out


def test_text_is_wrapped_in_columns_and_tables_are_not(monkeypatch):
  monkeypatch.setenv("COLUMNS", "60")
  table = "compile     3.0 s\n" + "data_wait   0.1 s"
  text = doctor.as_text(
    findings.warning("time", "word " * 20 + "\n" + table, "do " * 30)
  )
  lines = text.split("\n")
  assert max(map(len, lines)) <= 60
  assert lines[0].startswith("warning  time           word word")
  assert f"{' ' * 24}data_wait   0.1 s" in lines
  assert any(line.startswith(f"{' ' * 24}-> do") for line in lines)


def test_the_help_has_every_exit_code_and_flag(capsys):
  with pytest.raises(SystemExit):
    doctor.run(["--help"])
  text = capsys.readouterr().out
  for part in ("\n  0 ", "\n  2 ", "\n  3 ", "\n  4 ", "\n  5 ", "--quick"):
    assert part in text
  for flag in ("--overfit_images", "--overfit_steps", "--bands", "--sheet"):
    assert flag in text


def test_a_number_of_images_is_at_least_1():
  with pytest.raises(errors.BadInput, match="at least 1"):
    doctor.run(["--config=configs/demo.py:base", "--overfit_images=0"])
