"""Photos a second of our input pipeline, a plain PIL loop and tf.data.

  python benchmarks/input_pipeline.py       # under two minutes
  python benchmarks/input_pipeline.py --images=64 --repeats=1 --tf=false

From JPEGs of 512x512 to batches of image [256 256 3] and x_lr [64 64 3] in
[-1, 1], all antialiased, on two cores, from disk, in an order that is shuffled
anew each pass. The three take turns, so that a loaded machine slows all; a
figure is the median of the turns. Images a CPU second do not change with what
else runs. `ours, 1 thread` reads as the PIL loop does, but checks the digest of
each record; the PIL loop reads plain files in order and checks nothing.

At the end: the share of its time in which a consumer with a step of --step
seconds waits for its next batch.
"""

import os
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
if hasattr(os, "sched_setaffinity"):  # Linux
  os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])

import numpy as np
import PIL.Image
from absl import app, flags

from imagen_jax.data import (
  array_record_source,
  examples,
  image_pipeline,
  image_view,
)

_IMAGES = flags.DEFINE_integer("images", 256, "photos in the set")
_REPEATS = flags.DEFINE_integer("repeats", 5, "passes of each reader")
_BATCH = flags.DEFINE_integer("batch_size", 16, "photos in a batch")
_STEP = flags.DEFINE_float("step", 0.25, "seconds of a training step")
_TF = flags.DEFINE_bool("tf", True, "compare with tf.data")

_SIDE, _HIGH, _LOW = 512, 256, 64

Batches = Iterator[tuple[np.ndarray, np.ndarray]]


def _write(folder: pathlib.Path) -> list[pathlib.Path]:
  """The same photos as files and as a set of ours."""
  paths, rows = [], []
  for i in range(_IMAGES.value):
    generator = np.random.default_rng(i)
    blocks = generator.integers(0, 256, (16, 16, 3), np.uint8)
    smooth = PIL.Image.fromarray(blocks).resize(
      (_SIDE, _SIDE), PIL.Image.Resampling.BICUBIC
    )
    grain = generator.normal(0, 6, (_SIDE, _SIDE, 3))
    pixels = np.clip(np.asarray(smooth) + grain, 0, 255).astype(np.uint8)
    paths.append(folder / f"{i:05d}.jpg")
    PIL.Image.fromarray(pixels).save(paths[-1], quality=85)
    rows.append(examples.Example(str(i), f"photo {i}", paths[-1].read_bytes()))
  shard = array_record_source.write_shard(
    folder / "photos.array_record", rows, encode=examples.encode
  )
  array_record_source.write_manifest(
    folder, [shard], name="photos", notes={"format": examples.FORMAT}
  )
  return paths


def _ours(folder: pathlib.Path, threads: int) -> Callable[[], Batches]:
  pipeline = image_pipeline.make(
    [examples.open_set(folder)],
    image_view.View(_HIGH, low_resolution=_LOW),
    batch_size=_BATCH.value,
    threads=threads,
  )
  steps = _IMAGES.value // _BATCH.value

  def read() -> Batches:
    for made in pipeline.batches(0, steps):
      yield made["image"], made["x_lr"]

  return read


def _plain(paths: list[pathlib.Path]) -> Callable[[], Batches]:
  bilinear = PIL.Image.Resampling.BILINEAR

  def read() -> Batches:
    for start in range(0, len(paths) - _BATCH.value + 1, _BATCH.value):
      high, low = [], []
      for path in paths[start : start + _BATCH.value]:
        with PIL.Image.open(path) as image:
          large = image.convert("RGB").resize((_HIGH, _HIGH), bilinear)
        small = large.resize((_LOW, _LOW), bilinear)
        high.append(np.asarray(large, np.float32) / 127.5 - 1)
        low.append(np.asarray(small, np.float32) / 127.5 - 1)
      yield np.stack(high), np.stack(low)

  return read


def _tf_data(paths: list[pathlib.Path]) -> Callable[[], Batches]:
  import tensorflow as tf

  def load(path):
    pixels = tf.io.decode_jpeg(tf.io.read_file(path), channels=3)
    high = tf.image.resize(pixels, (_HIGH, _HIGH), antialias=True)
    low = tf.image.resize(high, (_LOW, _LOW), antialias=True)
    return high / 127.5 - 1, low / 127.5 - 1

  names = [str(path) for path in paths]
  dataset = tf.data.Dataset.from_tensor_slices(names).shuffle(len(names))
  dataset = dataset.map(load, num_parallel_calls=tf.data.AUTOTUNE)
  dataset = dataset.batch(_BATCH.value, drop_remainder=True)
  dataset = dataset.prefetch(tf.data.AUTOTUNE)
  return lambda: iter(dataset.as_numpy_iterator())


def _pass(read: Callable[[], Batches]) -> tuple[float, float]:
  """Photos a second, and a CPU second of all threads."""
  wall, cpu = time.perf_counter(), time.process_time()
  count = sum(len(image) for image, _ in read())
  wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
  return count / wall, count / cpu


def _waited(read: Callable[[], Batches]) -> float:
  """The share of time in which a consumer waits, after the first batch."""
  batches = read()
  next(batches)
  waited, started, more = 0.0, time.perf_counter(), True
  while more:
    asked = time.perf_counter()
    more = next(batches, None) is not None
    waited += time.perf_counter() - asked
    time.sleep(_STEP.value)
  return waited / (time.perf_counter() - started)


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f"unknown arguments {argv[1:]}")
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    paths = _write(folder)
    readers = {"PIL loop": _plain(paths)}
    if _TF.value:
      readers["tf.data"] = _tf_data(paths)
    for threads in (0, 1, 2):
      readers[f"ours, {threads} threads"] = _ours(folder, threads)
    for read in readers.values():
      next(read())
    rates = np.array(
      [[_pass(r) for r in readers.values()] for _ in range(_REPEATS.value)]
    )
    plain = np.median(rates, axis=0)[0]
    print(f"{'':18}{'images/s':>9}{'ratio':>7}{'a CPU s':>9}{'ratio':>7}")
    for name, (wall, cpu) in zip(
      readers, np.median(rates, axis=0), strict=True
    ):
      print(
        f"{name:18}{wall:9.0f}{wall / plain[0]:7.2f}{cpu:9.0f}"
        f"{cpu / plain[1]:7.2f}"
      )
    share = _waited(readers["ours, 2 threads"])
    print(f"a step of {_STEP.value} s waits {share:.1%} of its time")


if __name__ == "__main__":
  app.run(main)
