"""The base, text -> 64 x 64 (Appendix F.1), for T5-XXL.

  imagen plan --config=configs/base_64.py:2b,v5e --topology=v5e:16x16
  imagen train --config=configs/base_64.py:2b,v5e --workdir=gs://bucket/base \
    --config.data.paths=/data/sets/web, --config.data.store=/data/store

The argument is a size, 300m, 500m, 1b or 2b (the paper's), and then, after a
comma, the hardware whose mesh is to be used: v4, v5e, v5p, v6e, h100 or h200.

What `imagen plan` says of 2b at a global batch of 2048, compiled (GPUs: from
shapes alone). MFU is that where nothing overlaps, and at most; images/s and
days of 2.5M steps are of the latter. Assumptions: docs/scaling.md.

  hardware     a chip holds       MFU    images/s  days
  v4:8x8x4          8.11 GB     42 - 87 %    13,119   4.5
  v5e:16x16         9.83 GB     43 - 87 %     9,396   6.3
  v5p:4x4x4         15.7 GB     56 - 87 %     5,474  10.8
  v6e:16x16         8.37 GB     27 - 75 %    38,102   1.6
  gpu:8xh100              ?     66 - 75 %     1,276  46.4
  gpu:8xh200              ?     70 - 75 %     1,276  46.4
"""

from ml_collections import ConfigDict

from configs import paper

_SIZES = {
  "300m": "base_300m",
  "500m": "base_500m",
  "1b": "base_1b",
  "2b": "base_2b",
}


def get_config(arg: str = "2b") -> ConfigDict:
  """The config; see the module's text for `arg`."""
  variant, modes = paper.sizes(_SIZES, arg)
  config = paper.stage("base", variant, resolution=64, modes=modes)
  config.sampler.update(
    {"steps": 256, "sampler": "ancestral", "guidance_weight": 7.5}
  )
  return config
