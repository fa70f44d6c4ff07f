"""What the paper's ablations share; not a config itself.

A file here answers two kinds of argument:

  (none) or paper     the ablation: what is compared, and at which settings;
                      `imagen evaluate ablate` reads it
  ARM or ARM,paper    the training config of one arm, as `imagen train` and
                      `imagen plan` take it

`paper` is the paper's scale: its networks, batch and steps, to be trained on a
slice and with data of one's own. Without it arms are networks of 16 or 32
pixels that two CPU cores train in minutes on the emoji set: they show that the
comparison runs and which way it leans, not what the paper found.
"""

from collections.abc import Callable, Mapping

from ml_collections import ConfigDict

from configs import demo, paper

Arm = Callable[[bool], ConfigDict]  # at the paper's scale? -> a training config
WEIGHTS = (1.0, 1.25, 1.5, 1.75, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0)


def get(
  arg: str,
  *,
  title: str,
  figure: str,
  axes: Mapping[str, tuple],
  paper_axes: Mapping[str, tuple],
  stage: str = "base",
  arms: Mapping[str, Arm] | None = None,
  fixed: Mapping[str, object] | None = None,
  x_lr: str = "",
) -> ConfigDict:
  """The ablation, or one of its arms; see the module's text for `arg`.

  `axes` are sampler settings that are swept, the last along a line; `fixed`
  are the same for all. `x_lr` is what arms that enlarge are given: "real" small
  images or "drawn" ones of the demo's base.
  """
  arms = arms or {}
  words = [word for word in arg.split(",") if word]
  names = [word for word in words if word != "paper"]
  at_scale = "paper" in words
  if len(names) > 1 or set(names) - arms.keys():
    known = ", ".join(arms) or "none"
    raise ValueError(
      f"argument {arg!r} is not known; use paper, or one of the arms ({known}),"
      " or both joined by a comma."
    )
  if names:
    return arms[names[0]](at_scale)
  return ConfigDict(
    {
      "title": title,
      "figure": figure,  # of the paper
      "stage": stage,
      "weights": "",  # a cascade's folder; "" is the demo that is shipped
      "arms": {name: make(at_scale) for name, make in arms.items()},
      "axes": dict(paper_axes if at_scale else axes),
      "fixed": dict(fixed or {}),
      "x_lr": x_lr,
      "prompts": 1000 if at_scale else 96,
      "seed": 0,
    }
  )


def base(
  at_scale: bool,
  *,
  size: str = "300m",
  embed_dim: int = 16,
  fields: Mapping[str, object] | None = None,
) -> ConfigDict:
  """An arm of the base: `size` at scale, else 16 pixels and `embed_dim`."""
  if at_scale:
    config = paper.stage("base", f"base_{size}", resolution=64)
    config.train.steps = 400_000  # Fig. A.13b
  else:
    config = _small("base", 16, steps=400, batch_size=32)
    config.stage.fields.update(
      {
        "embed_dim": embed_dim,
        "image_size": 16,
        "channel_mult": (1, 2, 3),
        "attn_resolutions": (8,),
        "text_cross_attn_res": (8, 4),
        "per_head_channels": embed_dim,
      }
    )
  config.stage.fields.update(dict(fields or {}))
  return config


def super_resolution(at_scale: bool, network: Mapping) -> ConfigDict:
  """An arm of SR: 64 to 256 pixels at scale, else 8 to 32."""
  if at_scale:
    config = paper.stage("sr", "sr256_600m", resolution=256, low_resolution=64)
  else:
    config = _small("sr", 32, steps=300, batch_size=16)
    config.stage.low_resolution = 8
  config.stage.network = network["network"]
  config.stage.fields = ConfigDict(dict(network["fields"]))
  return config


def _small(
  name: str, resolution: int, *, steps: int, batch_size: int
) -> ConfigDict:
  config = demo.get_config(name)
  config.stage.resolution = resolution
  config.optimizer.learning_rate = 2e-3
  config.optimizer.warmup_steps = 20
  config.train.update(
    {
      "steps": steps,
      "batch_size": batch_size,
      "ema_decay": 0.98,
      "checkpoint_every": steps,
    }
  )
  config.sampler.update({"steps": 16})
  config.preview.every = 0
  return config
