"""A stage's config of a DeepFloyd IF folder: what its network and sampler are.

The dicts are `config.stage` and `config.sampler` of our stage files. What
scheduler_config.json says of thresholding is taken; the rest of it has one
value that the sampler knows, and is refused otherwise.

  stage I   100 steps, guidance weight 7
  stage II   50 steps, guidance weight 4, x_lr noised to step 250
"""

from collections.abc import Mapping

from imagen_jax.core import errors
from imagen_jax.weights import from_deepfloyd

NAMES = ("base", "sr")  # of stages I and II
LENGTH = 77  # tokens; padding takes part, so there is no other
_SCHEDULER = {
  "beta_schedule": "squaredcos_cap_v2",
  "num_train_timesteps": 1000,
  "prediction_type": "epsilon",
  "trained_betas": None,
  "variance_type": "learned_range",
}
_DEFAULTS = {
  "base": {"steps": 100, "guidance_weight": 7.0},
  "sr": {"steps": 50, "guidance_weight": 4.0, "aug_level": 0.25},
}


def name(source: from_deepfloyd.Source) -> str:
  """What the stage is called: base or sr."""
  return NAMES[bool(source.fields["low_resolution_cond"])]


def config(source: from_deepfloyd.Source) -> dict[str, object]:
  """`config.stage`."""
  side = source.fields["image_size"]
  return {
    "name": name(source),
    "network": from_deepfloyd.NETWORK,
    "fields": source.fields,
    "resolution": side,
    "low_resolution": side // 4 if name(source) == "sr" else 0,
    "text_width": source.text_width,
    "schedule": "cosine_1000",
    "prediction": "eps",
    "weighting": "eps",
    "text_drop_rate": 0.1,
    "discrete": True,
    "dtype": "bfloat16",
  }


def text(encoder: str, tokenizer: str) -> dict[str, object]:
  """`config.text` of both stages."""
  return {
    "encoder": encoder,
    "tokenizer": tokenizer,
    "max_length": LENGTH,
    "clean": "deepfloyd",
    "padding": "states",
    "precision": "float32",
  }


def sampler(source: from_deepfloyd.Source) -> dict[str, object]:
  """`config.sampler`; BadInput for a scheduler that is not IF's."""
  given = source.scheduler or {}
  for key, wanted in _SCHEDULER.items():
    if given.get(key, wanted) != wanted:
      raise errors.BadInput(
        f"{source.what}/scheduler/scheduler_config.json has {key}="
        f"{given[key]!r}, expected {wanted!r}; give the folder of a DeepFloyd"
        " IF model as it is."
      )
  return {
    "sampler": "ancestral",
    "spacing": "leading",
    "learned_variance": True,
    **_threshold(given, cap=1.5 if name(source) == "base" else 1.0),
    **_DEFAULTS[name(source)],
  }


def _threshold(given: Mapping[str, object], *, cap: float) -> dict[str, object]:
  if not given.get("thresholding", True):
    return {"threshold": "static" if given.get("clip_sample", True) else "none"}
  return {
    "threshold": "dynamic",
    "percentile": 100.0 * given.get("dynamic_thresholding_ratio", 0.95),
    "threshold_cap": float(given.get("sample_max_value", cap)),
  }
