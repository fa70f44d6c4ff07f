"""One torch peer of `sampling_peers.py`, in the peers' own Python.

  PEERS_PYTHON benchmarks/sampling_peers_torch.py PEER CORE BATCH STEPS DTYPE

PEER is imagen-pytorch or diffusers. Answers lines on stdin by JSON on stdout.
Knows nothing of imagen_jax, which is not installed there.
"""

import contextlib
import importlib.metadata
import json
import os
import sys
import time

_TEXT_WIDTH, _TOKENS, _SIDE = 384, 32, 64
_WIDTHS = (64, 128, 192, 256)


def imagen_pytorch(batch: int, steps: int):
  """A function that samples; the network; inputs of one evaluation."""
  import torch
  import transformers

  # On import it asks a hub for T5's width; here there is no T5 and no hub.
  config = transformers.T5Config(d_model=_TEXT_WIDTH)
  transformers.T5Config.from_pretrained = lambda *_, **__: config
  import imagen_pytorch as peer

  attention = (False, True, True, True)
  unet = peer.Unet(
    dim=64, dim_mults=(1, 2, 3, 4), num_resnet_blocks=3, layer_attns=attention,
    layer_cross_attns=attention, text_embed_dim=_TEXT_WIDTH,
    max_text_len=_TOKENS,
  )  # fmt: skip
  imagen = peer.Imagen(
    unets=(unet,), image_sizes=(_SIDE,), timesteps=steps,
    text_embed_dim=_TEXT_WIDTH,
  ).eval()  # fmt: skip
  text = torch.randn(batch, _TOKENS, _TEXT_WIDTH)
  mask = torch.ones(batch, _TOKENS, dtype=torch.bool)

  def sample():
    return imagen.sample(
      text_embeds=text, text_masks=mask, cond_scale=5.0, use_tqdm=False
    )

  def evaluate():
    z = torch.randn(1, 3, _SIDE, _SIDE)
    unet(z, torch.ones(1), text_embeds=text[:1], text_mask=mask[:1])

  return sample, unet, evaluate


def diffusers(batch: int, steps: int):
  """The same, of the first stage of DeepFloyd IF at the size above."""
  import torch
  from diffusers import DDPMScheduler, IFPipeline, UNet2DConditionModel

  unet = UNet2DConditionModel(
    sample_size=_SIDE, in_channels=3, out_channels=6,
    block_out_channels=_WIDTHS, layers_per_block=3,
    down_block_types=("ResnetDownsampleBlock2D",
                      *["SimpleCrossAttnDownBlock2D"] * 3),
    up_block_types=(*["SimpleCrossAttnUpBlock2D"] * 3,
                    "ResnetUpsampleBlock2D"),
    mid_block_type="UNetMidBlock2DSimpleCrossAttn", act_fn="gelu",
    addition_embed_type="text", addition_embed_type_num_heads=64,
    attention_head_dim=64, cross_attention_dim=256,
    cross_attention_norm="group_norm", encoder_hid_dim=_TEXT_WIDTH,
    encoder_hid_dim_type="text_proj", resnet_time_scale_shift="scale_shift",
  ).eval()  # fmt: skip
  scheduler = DDPMScheduler(
    beta_schedule="squaredcos_cap_v2", variance_type="learned_range",
    thresholding=True, dynamic_thresholding_ratio=0.95, sample_max_value=1.5,
  )  # fmt: skip
  pipe = IFPipeline(
    tokenizer=None, text_encoder=None, unet=unet, scheduler=scheduler,
    safety_checker=None, feature_extractor=None, watermarker=None,
    requires_safety_checker=False,
  )  # fmt: skip
  pipe.set_progress_bar_config(disable=True)
  text = torch.randn(batch, _TOKENS, _TEXT_WIDTH)

  def sample():
    return pipe(
      prompt_embeds=text, negative_prompt_embeds=torch.zeros_like(text),
      num_inference_steps=steps, guidance_scale=5.0, output_type="pt",
    )  # fmt: skip

  def evaluate():
    z = torch.randn(1, 3, _SIDE, _SIDE)
    unet(z, torch.ones(1), encoder_hidden_states=text[:1])

  return sample, unet, evaluate


def main(argv: list[str]) -> None:
  """Builds one peer and times it as often as it is asked to."""
  name, core, batch, steps, dtype = argv
  os.sched_setaffinity(0, {int(core)})
  answers = sys.stdout
  with contextlib.redirect_stdout(sys.stderr):
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    torch.set_num_threads(1)
    torch.manual_seed(0)
    make = {"imagen-pytorch": imagen_pytorch, "diffusers": diffusers}[name]
    autocast = torch.autocast("cpu", torch.bfloat16, dtype == "bfloat16")
    with torch.inference_mode(), autocast:
      sample, unet, evaluate = make(int(batch), int(steps))
      with FlopCounterMode(display=False) as counter:
        evaluate()
      first = {
        "parameters": sum(p.numel() for p in unet.parameters()),
        "gflop": counter.get_total_flops() / 1e9,
        "versions": {
          package: importlib.metadata.version(package)
          for package in (name, "torch")
        },
      }
      print(json.dumps(first), file=answers, flush=True)
      for _ in sys.stdin:
        cpu, wall = time.process_time(), time.perf_counter()
        sample()
        row = {
          "cpu_s": time.process_time() - cpu,
          "wall_s": time.perf_counter() - wall,
        }
        print(json.dumps(row), file=answers, flush=True)


if __name__ == "__main__":
  main(sys.argv[1:])
