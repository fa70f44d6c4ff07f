"""Stores whose rows are hashes of the captions: no encoder, and no JAX.

Also a program, for what has to die:

  python -m tests.text.hashed_job slow OUT     many captions, slowly
  python -m tests.text.hashed_job points ROOT  a small job in ROOT/0, ROOT/1,
      ...: killed at its 1st, 2nd, ... step on the file system, then run again
"""

import hashlib
import itertools
import os
import pathlib
import signal
import sys
import time

import numpy as np

from imagen_jax.text import precompute, store_format

WIDTH = 8
MAX_LENGTH = 16
IDENTITY = store_format.Identity(
  encoder="hashes",
  weights="a" * 64,
  tokenizer="b" * 64,
  max_length=MAX_LENGTH,
  width=WIDTH,
  clean="none",
)
ODD_CAPTIONS = [
  "",
  "\0",
  "nul \0 inside",
  "lone \ud800 surrogate",
  "x" * (1 << 20),
  "two\r\nlines",
  "two\nlines",
  "שלום עולם \u202e",
  "🦀" * 30,
]


def row(caption):
  """[m d], each value one of 256 that bfloat16 holds exactly."""
  data = caption.encode("utf-8", "replace")
  m = 1 + len(data) % MAX_LENGTH
  hashed = hashlib.shake_128(data).digest(m * WIDTH)
  return np.frombuffer(hashed, np.int8).reshape(m, WIDTH).astype("f") / 64


def embed_rows(captions):
  rows = [row(c) for c in captions]
  return precompute.Rows(rows, [len(c) > 20 for c in captions])


def captions(count):
  """A third of them come twice."""
  return [f"caption {i - (i % 3 == 2)}" for i in range(count)]


def run(out, source, *, embed=embed_rows, **options):
  return precompute.run(lambda: iter(source), embed, IDENTITY, out, **options)


def contents(folder):
  """Every file below a folder, by name."""
  return {
    path.relative_to(folder).as_posix(): path.read_bytes()
    for path in sorted(pathlib.Path(folder).rglob("*"))
    if path.is_file()
  }


SLOW = {"source": captions(20_000), "shard_size": 200}
SMALL = {"source": captions(15), "shard_size": 5}


def _slow(out):
  def embed(block):
    time.sleep(0.05)
    return embed_rows(block)

  run(
    out, **SLOW, embed=embed, progress=lambda p: print(p.captions, flush=True)
  )


def _die_at(step):
  """Kills this process in place of its step-th call of these functions."""
  calls = itertools.count()

  def counted(function):
    def call(*args, **options):
      if next(calls) == step:
        os.kill(os.getpid(), signal.SIGKILL)
      return function(*args, **options)

    return call

  for name in ("replace", "fsync", "unlink", "rmdir", "mkdir"):
    setattr(os, name, counted(getattr(os, name)))


def _points(root):
  for step in itertools.count():
    died = _forked(lambda: _die_at(step), f"{root}/{step}")  # noqa: B023
    assert _forked(lambda: None, f"{root}/{step}") == 0
    if not died:
      print(step)
      return


def _forked(prepare, out):
  """The exit status of a process of its own."""
  pid = os.fork()
  if pid == 0:
    prepare()
    run(out, **SMALL)
    os._exit(0)
  return os.waitpid(pid, 0)[1]


if __name__ == "__main__":
  {"slow": _slow, "points": _points}[sys.argv[1]](sys.argv[2])
  assert "jax" not in sys.modules
