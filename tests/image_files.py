"""Folders, archives and tables of small captioned images, for tests."""

import io
import pathlib
import tarfile

import numpy as np
import PIL.Image


def pixels(seed: int, height: int = 72, width: int = 96) -> np.ndarray:
  """A smooth picture that belongs to the seed."""
  y, x = np.mgrid[:height, :width]
  rng = np.random.default_rng(seed)
  rates = rng.uniform(0.02, 0.1, (3, 2))
  waves = [np.sin(a * x + b * y + seed) for a, b in rates]
  return np.uint8(127.5 + 127 * np.stack(waves, axis=2))


def file(seed: int, kind: str = "jpeg", height: int = 72, width: int = 96):
  """The picture as an image file."""
  buffer = io.BytesIO()
  PIL.Image.fromarray(pixels(seed, height, width)).save(buffer, kind)
  return buffer.getvalue()


def write_folder(folder: pathlib.Path, count: int) -> pathlib.Path:
  """i.jpg and i.txt, one in three in a folder below."""
  for i in range(count):
    path = folder / ("deep/er" if i % 3 == 2 else "") / f"{i:03d}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(file(i, height=72 + i))
    path.with_suffix(".txt").write_text(f"picture number {i}\n")
  return folder


def write_tar(path: pathlib.Path, members: dict[str, bytes]) -> pathlib.Path:
  """A WebDataset archive."""
  path.parent.mkdir(parents=True, exist_ok=True)
  with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
    for name, data in members.items():
      info = tarfile.TarInfo(name)
      info.size = len(data)
      tar.addfile(info, io.BytesIO(data))
  return path


def contents(folder: pathlib.Path) -> dict[str, bytes]:
  """All files below a folder."""
  return {
    path.relative_to(folder).as_posix(): path.read_bytes()
    for path in sorted(folder.rglob("*"))
    if path.is_file()
  }
