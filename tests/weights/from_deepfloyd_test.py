"""DeepFloyd IF -> BaseUNet: the same outputs, every name, folders, refusals."""

import gzip
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from imagen_jax.core import errors, tree
from imagen_jax.weights import deepfloyd_config, from_deepfloyd, tensors
from tests import deepfloyd_files, torch_archives

SHAPES = pathlib.Path(__file__).parents[1] / "golden/real_param_shapes.json.gz"
REAL = {
  "IF-I-M-v1.0": 775,
  "IF-I-L-v1.0": 775,
  "IF-I-XL-v1.0": 775,
  "IF-II-M-v1.0": 721,
  "IF-II-L-v1.0": 939,
}
# Of float32 as in the oracles' README; of float64 there it is 1e-9.
LIMITS = {(1, "float32"): 3e-5, (2, "float32"): 5e-5}


source = deepfloyd_files.source


def inputs(stage, dtype):
  """Those of the oracle, channels last, with a mask that hides half."""
  io = deepfloyd_files.io(stage)
  x = jnp.asarray(io["a_sample"].transpose(0, 2, 3, 1), dtype)
  step = jnp.asarray(io["a_timestep"], dtype)
  text = jnp.asarray(io["a_encoder_hidden_states"], dtype)
  mask = jnp.broadcast_to(jnp.arange(77)[None] < 30, (2, 77))
  if stage == 1:
    return x, step, text, mask
  level = jnp.asarray(io["a_class_labels"], dtype)
  return x[..., :3], step, text, mask, x[..., 3:], level


@pytest.fixture
def quick_compiles():
  name = "jax_disable_most_optimizations"
  before = jax.config.read(name)
  jax.config.update(name, True)
  yield
  jax.config.update(name, before)


# In float64 by default in tests/cascade/deepfloyd_runs_test.py.
@pytest.mark.parametrize(
  "dtype", ["float32", pytest.param("float64", marks=pytest.mark.nightly)]
)
@pytest.mark.parametrize("stage", [1, 2])
def test_the_output_is_that_of_diffusers(stage, dtype, quick_compiles):
  with jax.enable_x64(dtype == "float64"):
    module = from_deepfloyd.module(source(stage), dtype=dtype)
    params = deepfloyd_files.params(stage, dtype)
    given = inputs(stage, dtype)
    apply = jax.jit(module.apply)
    out = apply({"params": params}, *given)
    later = apply({"params": params}, given[0], given[1] + 1, *given[2:])
    out, later = np.asarray(out), np.asarray(later)
  name = "a_out_f64" if dtype == "float64" else "a_out"
  expected = deepfloyd_files.io(stage)[name].transpose(0, 2, 3, 1)
  assert out.dtype == expected.dtype
  limit = LIMITS.get((stage, dtype), 1e-9)
  np.testing.assert_allclose(out, expected, rtol=0, atol=limit)
  assert np.abs(later - expected).max() > 0.1


@pytest.mark.parametrize("stage", [1, 2])
def test_configs_of_2023_say_the_same(stage):
  old = deepfloyd_files.read_config(stage, "config_2023_keys.json")
  new = deepfloyd_files.read_config(stage)
  assert "dropout" in new and "dropout" not in old
  assert deepfloyd_config.fields(old, "") == deepfloyd_config.fields(new, "")


@pytest.mark.parametrize(
  "name",
  [
    "IF-I-XL-v1.0",
    "IF-II-M-v1.0",
    "IF-II-L-v1.0",
    pytest.param("IF-I-L-v1.0", marks=pytest.mark.nightly),
    pytest.param("IF-I-M-v1.0", marks=pytest.mark.nightly),
  ],
)
def test_every_tensor_of_the_real_models_has_its_place(name):
  with gzip.open(SHAPES) as file:
    shapes = json.load(file)[name]
  assert len(shapes) == REAL[name]
  size = 64 if "IF-I-" in name else 256
  stage = 1 if size == 64 else 2
  config = deepfloyd_files.read_config(stage) | real_config(shapes, size)
  bare = {
    n: tensors.Tensor(tuple(s), np.dtype(np.float32), lambda: None)
    for n, s in shapes.items()
  }
  plan = from_deepfloyd.plan(
    source(stage, config=config)._replace(tensors=bare)
  )
  assert {planned.source for planned in plan.values()} == shapes.keys()
  assert len(plan) == len(shapes)


def real_config(shapes, size):
  """What config.json of the real model says, of its own tensors' shapes."""
  levels = 1 + max(
    int(n.split(".")[1]) for n in shapes if n.startswith("down_blocks")
  )
  last = [
    max(
      int(n.split(".")[3])
      for n in shapes
      if n.startswith(f"down_blocks.{level}.resnets")
    )
    for level in range(levels)
  ]
  channels = [
    shapes[f"down_blocks.{level}.resnets.0.conv1.weight"][0]
    for level in range(levels)
  ]
  return {
    "block_out_channels": channels,
    "layers_per_block": [n + 1 for n in last],
    "cross_attention_dim": channels[-1],
    "encoder_hid_dim": 4096,
    "attention_head_dim": 64,
    "addition_embed_type_num_heads": 64,
    "sample_size": size,
    "time_embedding_dim": shapes["time_embedding.linear_1.weight"][0],
  }


def test_a_folder_is_read_in_float16_and_by_its_unet_alone(tmp_path):
  name = "diffusion_pytorch_model.fp16.safetensors"
  folder = deepfloyd_files.write(tmp_path / "if", 2, name=name, dtype="f2")
  found = from_deepfloyd.read(folder)
  assert found.text_width == 48
  assert found.scheduler["variance_type"] == "learned_range"
  params = tree.flatten(from_deepfloyd.load(folder).params)
  kernel = deepfloyd_files.unet(2)["conv_out.weight"]
  assert params["head/conv/kernel"].dtype == jnp.float32
  np.testing.assert_array_equal(
    params["head/conv/kernel"], kernel.astype("f2").transpose(2, 3, 1, 0)
  )
  alone = from_deepfloyd.read(folder / "unet")
  assert alone.tensors.keys() == found.tensors.keys()
  assert alone.scheduler == found.scheduler


def test_an_archive_of_torch_is_read_where_no_safetensors_are(tmp_path):
  folder = deepfloyd_files.write(tmp_path / "if", 1)
  safe = folder / "unet" / "diffusion_pytorch_model.safetensors"
  some = {"conv_in.bias": np.float32([1, 2, 3])}
  torch_archives.save(safe.with_suffix(".bin"), some)
  assert len(from_deepfloyd.read(folder).tensors) > 1
  safe.unlink()
  tensors = from_deepfloyd.read(folder).tensors
  assert {n: t.read().tolist() for n, t in tensors.items()} == {
    "conv_in.bias": [1, 2, 3]
  }


def shards(folder):
  """The folder of stage 2 in two shards with an index."""
  deepfloyd_files.write(folder, 2)
  unet = folder / "unet"
  (unet / "diffusion_pytorch_model.safetensors").unlink()
  names = list(deepfloyd_files.unet(2))
  where = {}
  for i, part in enumerate((names[:200], names[200:])):
    file = f"diffusion_pytorch_model-{i + 1:05}-of-00002.safetensors"
    chosen = {n: deepfloyd_files.unet(2)[n] for n in part}
    safetensors.numpy.save_file(chosen, unet / file)
    where |= dict.fromkeys(part, file)
  index = unet / "diffusion_pytorch_model.safetensors.index.json"
  index.write_text(json.dumps({"metadata": {}, "weight_map": where}))
  return folder


def test_shards_are_read_and_a_missing_one_is_named(tmp_path):
  folder = shards(tmp_path / "if")
  assert from_deepfloyd.plan(from_deepfloyd.read(folder))
  missing = "diffusion_pytorch_model-00002-of-00002.safetensors"
  (folder / "unet" / missing).unlink()
  with pytest.raises(
    errors.CheckpointError, match=f"lacks {missing}"
  ) as caught:
    from_deepfloyd.read(folder)
  assert "\n" not in str(caught.value)


def test_what_is_no_such_folder_is_refused_in_one_line(tmp_path):
  (tmp_path / "t5").mkdir()
  with pytest.raises(errors.BadInput, match="no unet/config.json") as caught:
    from_deepfloyd.read(tmp_path / "t5")
  assert "\n" not in str(caught.value)
  folder = deepfloyd_files.write(tmp_path / "if", 1)
  (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
  with pytest.raises(errors.BadInput, match="does not exist") as caught:
    from_deepfloyd.read(folder)
  assert "diffusion_pytorch_model.safetensors" in str(caught.value)


def test_a_tensor_too_many_too_few_or_of_other_shape_is_listed():
  arrays = dict(deepfloyd_files.unet(1))
  del arrays["conv_in.bias"]
  arrays["down_blocks.0.attentions.0.to_q.bias"] = np.zeros(32)
  arrays["conv_out.weight"] = np.zeros((3, 32, 3, 3), np.float32)
  with pytest.raises(errors.CheckpointError) as caught:
    from_deepfloyd.plan(source(1, arrays))
  message = str(caught.value)
  assert "missing: stem/bias (32,)" in message
  assert "unused: down_blocks.0.attentions.0.to_q.bias" in message
  assert "head/conv/kernel is (3, 3, 32, 6)" in message
  assert "3 problem(s)" in message
