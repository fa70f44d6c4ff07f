"""The Efficient U-Net against the U-Net of the base, as SR (Fig. A.14).

  imagen evaluate ablate --only=efficient_unet --out=ablations
  imagen plan --config=configs/ablations/efficient_unet.py:unet,paper \
    --topology=v5e:16x16

Arms: unet and efficient; see common.py for the argument. Small images are real
ones made smaller. Each arm is measured as it trains, and the plot is over the
seconds of training, at whatever load the machine had.
"""

from ml_collections import ConfigDict

from configs import demo
from configs.ablations import common

_LEVEL = {
  "kernel_size": (3, 3),
  "strides": (2, 2),
  "num_res_blocks": 1,
  "num_attention_heads": 4,
  "self_attention": False,
}


def get_config(arg: str = "") -> ConfigDict:
  """The ablation or an arm; see the module's text."""
  return common.get(
    arg,
    title="Efficient U-Net and U-Net",
    figure="A.14",
    stage="sr",
    arms={"unet": _unet, "efficient": _efficient},
    axes={"updates": (100, 200, 300)},
    paper_axes={"updates": (100_000, 250_000, 500_000, 1_000_000, 2_500_000)},
    fixed={"guidance_weight": 1.0, "aug_level": 0.0},
    x_lr="real",
  )


def _unet(at_scale: bool) -> ConfigDict:
  if at_scale:
    network = demo.network("base_500m")
    network["fields"].update(
      {
        "image_size": 256,
        "attn_resolutions": (),
        "text_cross_attn_res": (32,),
        "remat": "blocks",
      }
    )
  else:
    network = demo.network("demo_base_32")
    network["fields"].update(
      {
        "embed_dim": 16,
        "channel_mult": (1, 2, 2, 2),
        "attn_resolutions": (),
        "text_cross_attn_res": (4,),
        "per_head_channels": 16,
      }
    )
  network["fields"]["low_resolution_cond"] = True
  return _measured(common.super_resolution(at_scale, network), at_scale)


def _efficient(at_scale: bool) -> ConfigDict:
  if at_scale:
    network = demo.network("sr256_600m")
  else:
    network = demo.network("demo_sr_256")
    network["fields"].update(
      {
        "blocks": tuple(
          _LEVEL | {"channels": width, "text_cross_attention": width == 64}
          for width in (16, 32, 48, 64)
        ),
        "cond_embed_dim": 64,
        "text_embed_dim": 64,
      }
    )
  return _measured(common.super_resolution(at_scale, network), at_scale)


def _measured(config: ConfigDict, at_scale: bool) -> ConfigDict:
  """Keeps the checkpoints that are measured, for good."""
  every = 50_000 if at_scale else 100
  config.train.update({"keep_every": every, "checkpoint_every": every})
  return config
