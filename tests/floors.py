"""The floors of the house, as data: where each file lives and whom it may know.

`tests/architecture_test.py` enforces it.
"""

# Every file of the package and its floor. A file imports from lower floors
# only; (1, 2) reads "floor 1.2". Add a new file where it belongs.
FLOORS = {
  "version": (-1, 0),
  "core/errors": (-1, 0),
  "core/arrays": (0, 0),
  "core/files": (0, 0),
  "core/shapes": (0, 1),
  "core/rng": (0, 1),
  "core/precision": (0, 1),
  "core/tree": (0, 1),
  "core/images": (0, 1),
  "core/contact_sheet": (0, 2),
  "diffusion/schedules": (1, 0),
  "diffusion/thresholding": (1, 0),
  "diffusion/guidance": (1, 0),
  "diffusion/time_sampling": (1, 0),
  "diffusion/parameterization": (1, 1),
  "diffusion/process": (1, 2),
  "diffusion/weighting": (1, 2),
  "diffusion/augmentation": (1, 3),
  "diffusion/ddpm": (1, 3),
  "diffusion/losses": (1, 3),
  "diffusion/steps": (1, 3),
  "diffusion/sampler_settings": (1, 4),
  "diffusion/sampling": (1, 5),
  "nn/initializers": (2, 0),
  "nn/convolution": (2, 1),
  "nn/param_init": (2, 1),
  "nn/embeddings": (2, 1),
  "nn/normalization": (2, 1),
  "nn/resampling": (2, 1),
  "nn/attention": (2, 1),
  "nn/resnet": (2, 2),
  "nn/attention_blocks": (2, 2),
  "nn/text_pooling": (2, 2),
  "nn/conditioning": (2, 3),
  "nn/unet_blocks": (2, 4),
  "models/base_unet": (3, 0),
  "models/efficient_unet": (3, 0),
  "models/bert": (3, 0),
  "models/variants": (3, 1),
  "text/tokenizers": (4, 0),
  "weights/rules": (4, 0),
  "weights/readers": (4, 0),
  "text/row_cache": (4, 0),
  "weights/from_hf": (4, 1),
  "weights/native": (4, 1),
  "text/encoders": (4, 2),
  "data/batch": (5, 0),
  "data/records": (5, 0),
  "data/colours": (5, 0),
  "data/source": (5, 1),
  "data/transforms": (5, 1),
  "data/captions": (5, 1),
  "data/pixels": (5, 1),
  "data/draws": (5, 1),
  "data/array_record_source": (5, 2),
  "data/emoji": (5, 3),
  "data/pipeline": (5, 4),
  "data/build_emoji": (5, 4),
  "cascade/stage": (6, 0),
  "cascade/folder": (6, 0),
  "cascade/pipeline": (6, 1),
  "train/state": (7, 0),
  "train/ema": (7, 0),
  "train/optimizers": (7, 0),
  "train/record": (7, 0),
  "train/evaluator": (7, 1),
  "train/checkpoints": (7, 1),
  "train/step": (7, 1),
  "train/restore": (7, 2),
  "train/loop": (7, 2),
  "evals/sample_grid": (8, 0),  # an evaluator, so above train
  "build": (9, 1),
  "api": (9, 2),
  "cli/arguments": (10, 0),
  "cli/overrides": (10, 1),
  "cli/config": (10, 2),
  "cli/pictures": (10, 2),
  "cli/stage_settings": (10, 2),
  "cli/train": (10, 3),
  "cli/sample": (10, 3),
  "cli/export": (10, 3),
  "cli/main": (10, 4),
  "__main__": (11, 0),
  "__init__": (11, 0),
}

# Two pillars stand on core and never see each other.
PILLARS = ({"diffusion"}, {"nn", "models"})

# Third parties: who may import them. Anything else may not.
ALLOWED = {
  "ml_collections": ("build", "cli/", "configs/"),
  "tensorflow": ("data/", "weights/"),
  "tensorflow_datasets": ("data/", "weights/"),
  "seqio": ("data/",),
  "torch": ("weights/",),
}

MAX_LINES = 300

# The lists of setup.py.
DECLARED = ("CORE", "EXTRAS")
