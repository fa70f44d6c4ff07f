"""unet/config.json of DeepFloyd IF: what is read, and what is refused."""

import pytest

from imagen_jax.core import errors
from imagen_jax.models import variants
from imagen_jax.weights import deepfloyd_config
from tests import deepfloyd_files


def test_the_fields_are_those_of_a_base_unet():
  fields = deepfloyd_config.fields(
    deepfloyd_files.read_config(2), "config.json"
  )
  assert fields["channel_mult"] == [1, 1, 1, 2, 2]
  assert fields["num_res_blocks"] == [1, 1, 2, 2, 1]
  assert fields["image_size"] == 32 and fields["attn_resolutions"] == [4, 2]
  assert fields["residual_divisor"] == 1.4142271248762552
  assert fields["cond_embed_dim"] == 64 and fields["low_resolution_cond"]
  assert variants.build("base_unet", fields).num_res_blocks == (1, 1, 2, 2, 1)
  first = deepfloyd_config.fields(deepfloyd_files.read_config(1), "config.json")
  assert first["cond_embed_dim"] == 4 * 32 and first["num_res_blocks"] == 2


@pytest.mark.parametrize(
  ("key", "value"),
  [
    ("_class_name", "UNet2DModel"),
    ("act_fn", "silu"),
    ("attention_type", "gated"),
    ("class_embed_type", "projection"),
    ("cross_attention_norm", "layer_norm"),
    ("down_block_types", ["CrossAttnDownBlock2D"] * 4),
    ("dropout", 0.1),
    ("in_channels", 6),
    ("layers_per_block", [1, 2, 3]),
    ("mid_block_scale_factor", 2),
    ("norm_num_groups", 16),
    ("out_channels", 3),
    ("resnet_skip_time_act", True),
    ("time_embedding_act_fn", "silu"),
    ("up_block_types", ["SimpleCrossAttnUpBlock2D"] * 4),
  ],
)
def test_other_networks_are_refused_in_one_line(key, value):
  config = deepfloyd_files.read_config(1) | {key: value}
  with pytest.raises(errors.BadInput) as caught:
    deepfloyd_config.fields(config, "unet/config.json")
  message = str(caught.value)
  assert message.startswith("unet/config.json has ") and "\n" not in message
  assert repr(value[0] if key == "down_block_types" else value) in message or (
    key == "class_embed_type"
  )


def test_missing_and_unknown_keys_are_named():
  config = deepfloyd_files.read_config(1)
  fewer = {k: v for k, v in config.items() if k != "cross_attention_norm"}
  with pytest.raises(errors.BadInput, match="lacks cross_attention_norm"):
    deepfloyd_config.fields(fewer, "config.json")
  more = config | {"motion_module": 3}
  with pytest.raises(errors.BadInput, match="motion_module=3"):
    deepfloyd_config.fields(more, "config.json")


def test_channels_must_fit_the_groups():
  config = deepfloyd_files.read_config(1) | {
    "block_out_channels": [32, 32, 64, 80]
  }
  with pytest.raises(errors.BadInput, match="block_out_channels=80"):
    deepfloyd_config.fields(config, "config.json")
