"""Super-resolution 64 -> 256 (Appendix F.2), the Efficient U-Net.

  imagen plan --config=configs/sr_256.py:600m,v5e --topology=v5e:16x16
  imagen train --config=configs/sr_256.py:600m,v5e \
    --workdir=gs://bucket/sr_256 --config.data.paths=/data/sets/web, \
    --config.data.store=/data/store

The argument is 600m (the paper's), or 500m, with half the attention's width and
a conditioning of 1024 numbers; and then, after a comma, the hardware: v4, v5e,
v5p, v6e, h100 or h200.

What `imagen plan` says of 600m at a global batch of 2048, compiled (GPUs: from
shapes alone). MFU is that where nothing overlaps, and at most; images/s and
days of 2.5M steps are of the latter. Assumptions: docs/scaling.md.

  hardware     a chip holds       MFU    images/s  days
  v4:8x8x4          5.83 GB    52 - 100 %    43,382   1.4
  v5e:16x16         5.48 GB    57 - 100 %    31,077   1.9
  v5p:4x4x4         21.5 GB    65 - 100 %    18,102   3.3
  v6e:16x16          5.1 GB    36 - 100 %   144,816   0.4
  gpu:8xh100              ?    88 - 100 %     4,876  12.2
  gpu:8xh200              ?    94 - 100 %     4,876  12.2
"""

from ml_collections import ConfigDict

from configs import paper

_SIZES = {"600m": "sr256_600m", "500m": "sr256_emb_1024"}


def get_config(arg: str = "600m") -> ConfigDict:
  """The config; see the module's text for `arg`."""
  variant, modes = paper.sizes(_SIZES, arg)
  config = paper.stage(
    "sr_256", variant, resolution=256, low_resolution=64, modes=modes
  )
  config.sampler.update(
    {"steps": 128, "sampler": "ancestral", "guidance_weight": 4.0}
  )
  config.sampler.update({"aug_level": 0.2})
  return config
