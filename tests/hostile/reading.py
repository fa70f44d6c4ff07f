"""Readers that take a folder, as a user would start them."""

import pathlib
from collections.abc import Callable

import jax

from imagen_jax import build as builder
from imagen_jax.cli import data
from imagen_jax.data import caption_sources
from imagen_jax.text import vocabularies
from imagen_jax.train import initial
from tests import tiny_cascade


def split(where: pathlib.Path) -> None:
  """Loads a tokenizer, and uses it."""
  vocabularies.load(where).split(["a cat"])


def captions(name: str) -> Callable[[pathlib.Path], object]:
  """All captions of a file."""
  return lambda folder: list(caption_sources.open_captions(str(folder / name)))


def build(*arguments: str) -> Callable[[pathlib.Path], object]:
  """`imagen data build` of what is HERE."""

  def run(folder: pathlib.Path) -> None:
    given = [argument.replace("HERE", str(folder)) for argument in arguments]
    out = folder.parent / "sets" / folder.name
    data.run(["build", *given, f"--out={out}", "--workers=1"])

  return run


def start(folder: pathlib.Path) -> object:
  """Parameters to train on from."""
  stage = builder.stage(tiny_cascade.stage_configs(8)[0])
  return initial.initial_params(
    stage, folder / "a.safetensors", key=jax.random.key(0)
  )
