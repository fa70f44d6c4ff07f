"""Memory that is asked for: counted before a program is compiled."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from imagen_jax import api
from imagen_jax.cascade import sampling_memory
from imagen_jax.cascade import stage as stage_lib
from imagen_jax.core import errors, memory
from tests import tiny_cascade

GB = 10**9


@pytest.fixture(scope="module")
def tiny():
  return tiny_cascade.in_memory()


def test_what_is_live_at_once_is_counted():
  def f(x):
    a = x + 1.0  # 400 bytes; x is given, and not counted
    b = a * 2.0  # a and b
    c = b.sum()  # a is dead
    return jnp.broadcast_to(c, (300,))

  counted = sampling_memory.live_bytes(jax.make_jaxpr(f)(jnp.ones(100)).jaxpr)
  assert counted == 1200 + 4

  def g(x):
    a = x + 1.0
    return a * 2.0, a * 3.0

  assert (
    sampling_memory.live_bytes(jax.make_jaxpr(g)(jnp.ones(100)).jaxpr) == 1200
  )
  # What is within a call is live beside what is live around it.
  assert sampling_memory.live_bytes(
    jax.make_jaxpr(lambda x: (x * 2.0, jax.jit(g)(x)))(jnp.ones(100)).jaxpr
  ) == (400 + 1200)


@pytest.mark.parametrize("index", [0, 1])
def test_the_count_is_near_what_is_compiled(tiny, index):
  (cascade, params), rows = tiny, 8
  stage = cascade.stages[index]
  counted = rows * sampling_memory.evaluation_bytes(
    stage, length=tiny_cascade.LENGTH
  )
  shapes = {
    "z": (rows, stage.resolution, stage.resolution, 3),
    "logsnr": (rows,),
    "text_emb": (rows, tiny_cascade.LENGTH, 8),
    "text_mask": (rows, tiny_cascade.LENGTH),
  }
  if stage.low_resolution is not None:
    shapes |= {"x_lr": (rows, 16, 16, 3), "aug_level": (rows,)}
  cond = {
    name: jnp.ones(shape, bool if name == "text_mask" else jnp.float32)
    for name, shape in shapes.items()
  }
  program = jax.jit(
    lambda params, cond: stage_lib.denoise_fn(stage, params)(
      cond["z"], cond["logsnr"], cond
    )
  )
  compiled = program.lower(params[stage.name], cond).compile()
  used = compiled.memory_analysis().temp_size_in_bytes
  assert 0.4 * counted < used < 1.2 * counted


def test_what_cannot_fit_is_refused_with_advice(tiny):
  cascade, _ = tiny

  def check(images=1, batch_size=8, host=None, device=None):
    sampling_memory.check(
      cascade, images=images, batch_size=batch_size, host=host, device=device
    )

  check(host=GB, device=GB)
  check(images=10**9)
  with pytest.raises(errors.BadInput, match="images need .* on the host.*ask"):
    check(images=10**9, host=64 * GB)
  with pytest.raises(errors.BadInput) as caught:
    check(images=10**5, batch_size=10**5, host=64 * GB, device=GB)
  said = str(caught.value)
  assert "100000 images at a time need about" in said and "1 GB" in said
  fits = int(said.rpartition("=")[2].rstrip("."))
  assert 8 < fits < 10**5
  check(images=10**5, batch_size=fits, device=GB)
  # On a CPU programs are of one image, and memory is the host's.
  one = dataclasses.replace(cascade, images_a_program=1)
  sampling_memory.check(
    one, images=10**5, batch_size=10**5, host=64 * GB, device=None
  )
  with pytest.raises(errors.BadInput, match="one alone does not fit"):
    check(device=10**5)


def test_images_are_counted_before_they_are_drawn(tiny, monkeypatch):
  monkeypatch.setattr(memory, "host_bytes", lambda: GB)
  with pytest.raises(errors.BadInput, match="1000000 images need"):
    api.sample(*tiny, "a crab", jax.random.key(0), num_samples=10**6)
