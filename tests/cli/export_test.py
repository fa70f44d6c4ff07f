"""`imagen export`: a training workdir to stage files that sample the same."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from imagen_jax import build
from imagen_jax.cascade import folder, pipeline
from imagen_jax.cli import export
from imagen_jax.core import errors
from imagen_jax.train import checkpoints
from imagen_jax.train import state as state_lib
from tests import tiny_cascade

WIDTH = 8
STEPS = (3, 6)


def write_workdir(workdir, info: folder.StageInfo):
  """What `imagen train` leaves: run.json and the checkpoints 3 and 6."""
  params = tiny_cascade.random_params(build.stage(info.stage))
  config = {"stage": info.stage, "text": info.text, "sampler": info.sampler}
  workdir.mkdir(parents=True)
  (workdir / "run.json").write_text(
    json.dumps(
      {
        "config": config,
        "config_hash": "0123",
        "hashes": {"encoder": "4567"},
      }
    )
  )
  state = state_lib.create(params, optax.adam(1e-3))
  saver = checkpoints.Checkpoints(workdir)
  for step in STEPS:
    ema = jax.tree.map(lambda x, n=step: x * n, params)
    saver.save(step, state.replace(ema_params=ema), wait=True)
  saver.close()
  return params


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
  """The folder with the workdirs `base` and `sr`, and their raw parameters."""
  root = tmp_path_factory.mktemp("runs")
  infos = tiny_cascade.infos(WIDTH, "none")
  return root, {
    info.name: write_workdir(root / info.name, info) for info in infos
  }


def leaf(params):
  return jax.tree.leaves(params)[0]


def test_a_stage_is_the_newest_ema_in_bfloat16(runs, tmp_path, capsys):
  root, raw = runs
  path = tmp_path / "base.safetensors"
  export.run([f"--checkpoint={root / 'base'}", f"--out={path}"])
  entry = folder.read_stage(path)
  assert (entry.info.step, entry.info.params) == (6, "ema")
  assert entry.info.config_hash == "0123"
  assert entry.info.encoder_sha256 == "4567"
  assert entry.info.sampler == tiny_cascade.SAMPLERS["base"]
  expected = jnp.asarray(leaf(raw["base"]) * 6, jnp.bfloat16)
  np.testing.assert_array_equal(
    leaf(folder.load_params(path)), expected.astype(jnp.float32)
  )
  assert "ema parameters of step 6" in capsys.readouterr().out


def test_a_step_raw_and_float32_can_be_asked_for(runs, tmp_path):
  root, raw = runs
  path = tmp_path / "sr.safetensors"
  checkpoint = root / "sr" / "checkpoints" / "3"
  arguments = [f"--checkpoint={checkpoint}", "--dtype=float32", f"--out={path}"]
  export.run(arguments)
  assert folder.read_stage(path).info.step == 3
  np.testing.assert_array_equal(
    leaf(folder.load_params(path)), leaf(raw["sr"]) * np.float32(3)
  )
  export.run([*arguments, "--params=raw"])
  assert folder.read_stage(path).info.params == "raw"
  jax.tree.map(
    np.testing.assert_array_equal, folder.load_params(path), raw["sr"]
  )


def test_an_exported_cascade_makes_the_same_image(runs, tmp_path):
  root, raw = runs
  export.run([
    f"--checkpoint={root / 'sr'}", f"--checkpoint={root / 'base'}",
    "--params=raw", "--dtype=float32", f"--out={tmp_path}", "--note=a test",
  ])  # fmt: skip
  description = folder.read(tmp_path)
  assert description.names == ("base", "sr") and description.note == "a test"
  cascade, _ = tiny_cascade.in_memory(WIDTH)
  loaded = {
    entry.info.name: folder.load_params(entry.path)
    for entry in description.stages
  }
  text_emb = np.ones((2, tiny_cascade.LENGTH, WIDTH), np.float32)
  text_mask = np.ones((2, tiny_cascade.LENGTH), bool)
  keys = pipeline.image_keys(jax.random.key(0), jnp.arange(2))

  def last_images(params):
    parts = pipeline.chunks(
      cascade, params, text_emb, text_mask, keys, batch_size=2
    )
    return list(parts)[-1].images

  expected = last_images(raw)
  np.testing.assert_array_equal(last_images(loaded), expected)
  halved = jax.tree.map(lambda x: 0.5 * x, loaded)
  assert np.abs(last_images(halved) - expected).max() > 1e-2


def test_what_cannot_be_exported_is_refused(runs, tmp_path):
  root, _ = runs
  base, sr = root / "base", root / "sr"
  cases = [
    ([f"--checkpoint={tmp_path}"], r"holds no run\.json; give"),
    ([f"--checkpoint={base / 'checkpoints' / '5'}"], "no checkpoint of step 5"),
    ([f"--checkpoint={base}", f"--checkpoint={sr}"], "one file, but 2"),
    ([], "required: --checkpoint"),
    ([f"--checkpoint={base}", "--params=best"], "invalid choice"),
  ]
  for arguments, message in cases:
    with pytest.raises(errors.BadInput, match=message):
      export.run([*arguments, f"--out={tmp_path / 'x.safetensors'}"])
  out = tmp_path / "folder"
  with pytest.raises(errors.BadInput, match="enlarges images of 16x16, but"):
    export.run([f"--checkpoint={sr}", f"--out={out}"])
  assert not out.exists()


def test_a_damaged_or_foreign_checkpoint_is_named(tmp_path):
  info = tiny_cascade.infos(WIDTH, "none")[0]
  workdir = tmp_path / "base"
  write_workdir(workdir, info)
  arguments = [f"--checkpoint={workdir}", f"--out={tmp_path / 'x.safetensors'}"]
  run = json.loads((workdir / "run.json").read_text())
  run["config"]["stage"]["fields"] = info.stage["fields"] | {"embed_dim": 16}
  (workdir / "run.json").write_text(json.dumps(run))
  with pytest.raises(errors.CheckpointError, match="does not fit its config"):
    export.run(arguments)
  (workdir / "run.json").write_text("{}")
  with pytest.raises(
    errors.CheckpointError, match="holds no config of a stage"
  ):
    export.run(arguments)
