"""gs:// as far as a folder can play it, for etils and for Orbax.

Paths reach it through etils alone: what opens a file by itself finds nothing,
as on any machine. TensorStore, by which Orbax writes arrays, is sent to the
folder, too. What only a real bucket has, slow requests and their errors, is not
played.
"""

import os
import pathlib
from collections.abc import Callable

import pytest
from etils.epath import backend, gpath
from orbax.checkpoint._src.path import gcs_utils


class Bucket:
  """A backend of etils: the files of gs://NAME/... are in ROOT/NAME/..."""

  def __init__(self, root: pathlib.Path):
    self._root = root

  def real(self, path) -> str:
    text = os.fspath(path)
    return str(self._root / text[5:]) if text.startswith("gs://") else text

  def _remote(self, real) -> str:
    return f"gs://{os.path.relpath(real, self._root)}"

  def open(self, path, mode):
    assert "+" not in mode, "in a bucket, files are read or written"
    if "r" not in mode:  # nor are there folders that could be missing
      os.makedirs(os.path.dirname(self.real(path)), exist_ok=True)
    return backend.os_backend.open(self.real(path), mode)

  def glob(self, path):
    return [self._remote(p) for p in backend.os_backend.glob(self.real(path))]

  def walk(self, top, **options):
    for folder, *names in backend.os_backend.walk(self.real(top), **options):
      yield self._remote(folder), *names

  def __getattr__(self, name: str) -> Callable:
    of_folder = getattr(backend.os_backend, name)
    return lambda *given, **options: of_folder(
      *(self.real(x) if isinstance(x, str) else x for x in given), **options
    )


def put_at(root: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
  """From here on gs:// is `root`."""
  bucket = Bucket(root)
  monkeypatch.setitem(gpath._PREFIX_TO_BACKEND, "gs", bucket)
  monkeypatch.setattr(gpath, "_is_tf_installed", lambda: False)
  monkeypatch.setattr(
    gcs_utils,
    "get_kvstore_for_gcs",
    lambda path: {"driver": "file", "path": bucket.real(path)},
  )
