"""What the three stages of the paper share (Appendix F); not a config itself.

All fields are those of `configs/demo.py`; here they have the paper's values:
T5-XXL with 128 tokens, eps prediction, batch 2048, 2.5M steps, learning rate
1e-4 after 10,000 steps of warm-up. The paper leaves open what follows the
warm-up (constant here), EMA (0.9999), clipping (1.0) and precision (bfloat16
with float32 parameters).
"""

from ml_collections import ConfigDict

from configs import demo

# How much of a slice holds one copy of the state: docs/scaling.md says what
# each comes to, and `imagen plan --search` ranks others.
_MESHES = {
  "v4": {"data": -1, "fsdp": 32},
  "v5e": {"data": -1, "fsdp": 32},
  "v5p": {"data": -1, "fsdp": 16},
  "v6e": {"data": -1, "fsdp": 32},
  "h100": {"data": -1, "fsdp": 8},
  "h200": {"data": -1, "fsdp": 8},
}

# Eight GPUs have 256 images each. Parts of 32, as many as a chip of the v5p has
# at once, take 16 to 22 GB there; on GPUs nobody has compiled it.
_PARTS = {"h100": 8, "h200": 4}


def stage(
  name: str,
  variant: str,
  *,
  resolution: int,
  low_resolution: int = 0,
  modes: tuple[str, ...] = (),
) -> ConfigDict:
  """The config of one stage; `modes` name the hardware, at most one."""
  unknown = set(modes) - _MESHES.keys()
  if unknown or len(modes) > 1:
    raise ValueError(
      f"hardware {', '.join(modes)} is not known; name one of"
      f" {', '.join(_MESHES)}, or none."
    )
  config = demo.get_config("sr" if low_resolution else "base")
  config.stage.update(demo.network(variant))
  config.stage.update(
    {
      "name": name,
      "resolution": resolution,
      "low_resolution": low_resolution,
      "schedule": "cosine",
      "prediction": "eps",
      "weighting": "eps",
      "residual": False,
      "max_aug_level": 1.0,
      "text_width": 4096,
      "dtype": "bfloat16",
    }
  )
  # At 8 images a chip the activations of a super-resolution stage take a
  # quarter to two fifths of the smallest slice, those of the base do not fit.
  config.stage.fields.remat = "none" if low_resolution else "blocks"
  config.text.update(
    {"encoder": "t5_v1_1_xxl", "max_length": 128, "precision": "bfloat16"}
  )
  config.data.update({"name": "images", "place": "centre", "crop": 0})
  config.optimizer.update(
    {
      "name": "adam" if low_resolution else "adafactor",
      "learning_rate": 1e-4,
      "warmup_steps": 10_000,
      "decay": "constant",
      "clip_norm": 1.0,
      "b2": 0.999,
    }
  )
  config.train.update(
    {
      "steps": 2_500_000,
      "batch_size": 2048,
      "ema_decay": 0.9999,
      "log_every": 100,
      "checkpoint_every": 2000,
      "keep": 3,
      "keep_every": 100_000,
      "watchdog_minutes": 10.0,
    }
  )
  config.preview.every = 10_000
  for mode in modes:
    config.mesh.update(_MESHES[mode])
    config.train.micro_batches = _PARTS.get(mode, 1)
  return config


def sizes(known: dict[str, str], arg: str) -> tuple[str, tuple[str, ...]]:
  """(variant, modes) of an argument such as "2b" or "500m,v5e"."""
  size, *modes = arg.split(",")
  if size not in known:
    raise ValueError(
      f"size {size!r} is not known; use one of {', '.join(known)}, and then,"
      " after a comma, the hardware."
    )
  return known[size], tuple(modes)
