"""Our DeepFloyd IF back in diffusers' folder: the same names, bits, outputs."""

import json

import numpy as np
import pytest
import safetensors.numpy

from imagen_jax.core import errors
from imagen_jax.weights import (
  deepfloyd_config,
  deepfloyd_stage,
  from_deepfloyd,
  to_deepfloyd,
)
from tests import deepfloyd_files


def write(stage, out, dtype="float32"):
  source = deepfloyd_files.source(stage)
  params = deepfloyd_files.params(stage, np.float32)
  to_deepfloyd.write(
    params,
    deepfloyd_stage.config(source),
    deepfloyd_stage.sampler(source),
    out,
    dtype=dtype,
  )
  return out


@pytest.mark.parametrize("stage", [1, 2])
def test_there_and_back_is_the_same(stage, tmp_path):
  out = write(stage, tmp_path / "out")
  path = out / "unet" / "diffusion_pytorch_model.safetensors"
  again = safetensors.numpy.load_file(path)
  expected = deepfloyd_files.unet(stage)
  assert again.keys() == expected.keys()
  for name, x in expected.items():
    np.testing.assert_array_equal(again[name], x, err_msg=name)
  found = from_deepfloyd.read(out)
  assert found.fields == deepfloyd_files.source(stage).fields
  assert deepfloyd_stage.sampler(found) == deepfloyd_stage.sampler(
    deepfloyd_files.source(stage)
  )
  config = json.loads((out / "unet" / "config.json").read_text())
  old = deepfloyd_files.read_config(stage, "config_2023_keys.json")
  other = {k for k in old.keys() & config.keys() if old[k] != config[k]}
  assert other <= {"_diffusers_version", "time_embedding_dim"}


def test_what_is_there_or_no_deepfloyd_is_refused(tmp_path):
  out = write(1, tmp_path / "out", "float16")
  with pytest.raises(errors.BadInput, match="exists already"):
    write(1, out)
  stage = {"name": "base", "network": "efficient_unet", "fields": {}}
  with pytest.raises(errors.BadInput, match="is no DeepFloyd IF"):
    to_deepfloyd.write({}, stage, {}, tmp_path / "other")
  assert [path.name for path in tmp_path.iterdir()] == ["out"]
  fields = deepfloyd_files.source(2).fields
  config = deepfloyd_config.config(fields, 48)
  assert deepfloyd_config.fields(config, "") == fields


@pytest.mark.parity
@pytest.mark.parametrize("stage", [1, 2])
def test_diffusers_loads_it_and_gives_the_same(stage, tmp_path):
  torch = pytest.importorskip("torch", reason="needs torch and diffusers")
  diffusers = pytest.importorskip("diffusers", reason="needs diffusers")
  out = write(stage, tmp_path / "out")
  unet, info = diffusers.UNet2DConditionModel.from_pretrained(
    out / "unet", output_loading_info=True, low_cpu_mem_usage=False
  )
  assert not any(info.values()), info
  io = {k: torch.tensor(v) for k, v in deepfloyd_files.io(stage).items()}
  labels = {"class_labels": io["a_class_labels"]} if stage == 2 else {}
  with torch.no_grad():
    got = unet.eval()(
      io["a_sample"],
      io["a_timestep"],
      encoder_hidden_states=io["a_encoder_hidden_states"],
      **labels,
    ).sample.numpy()
  expected = deepfloyd_files.io(stage)["a_out"]
  np.testing.assert_allclose(got, expected, rtol=0, atol=3e-5)
  pipe = diffusers.DiffusionPipeline.from_pretrained(out)
  assert pipe.scheduler.config.variance_type == "learned_range"
  assert pipe.scheduler.config.sample_max_value == (1.5, 1.0)[stage - 1]
