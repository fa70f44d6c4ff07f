"""Super-resolution 256 -> 1024 (Appendix F.3): no self-attention.

  imagen plan --config=configs/sr_1024.py:400m,v5e --topology=v5e:16x16
  imagen train --config=configs/sr_1024.py:400m,v5e \
    --workdir=gs://bucket/sr_1024 --config.data.paths=/data/sets/web, \
    --config.data.store=/data/store

It learns from crops of 256 pixels of images of 1024, beside the same part of
them at a quarter, and draws whole ones: its layers are all convolutions, and
attention to text.

The argument is 400m, as the paper calls what has 577,616,515 parameters, or
300m, half as wide in attention, with a conditioning of 512 numbers; and then,
after a comma, the hardware: v4, v5e, v5p, v6e, h100 or h200.

What `imagen plan` says of 400m at a global batch of 2048, compiled (GPUs: from
shapes alone). MFU is that where nothing overlaps, and at most; images/s and
days of 2.5M steps are of the latter. Assumptions: docs/scaling.md.

  hardware     a chip holds       MFU    images/s  days
  v4:8x8x4          6.18 GB    46 - 100 %    43,817   1.4
  v5e:16x16          7.2 GB    49 - 100 %    31,389   1.9
  v5p:4x4x4         21.1 GB    65 - 100 %    18,283   3.2
  v6e:16x16         6.27 GB     31 - 74 %   108,476   0.5
  gpu:8xh100              ?    88 - 100 %     4,924  12.0
  gpu:8xh200              ?    94 - 100 %     4,924  12.0
"""

from ml_collections import ConfigDict

from configs import paper

_SIZES = {"400m": "sr1024_400m", "300m": "sr1024_emb_512"}


def get_config(arg: str = "400m") -> ConfigDict:
  """The config; see the module's text for `arg`."""
  variant, modes = paper.sizes(_SIZES, arg)
  config = paper.stage(
    "sr_1024", variant, resolution=1024, low_resolution=256, modes=modes
  )
  config.stage.schedule = "linear"
  config.data.crop = 256
  config.sampler.update({"steps": 32, "sampler": "ancestral", "aug_level": 0.1})
  return config
