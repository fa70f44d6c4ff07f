"""Tests of imagen_jax.data.decode: hostile files are skipped, never fatal."""

import io
import json
import pathlib
import random
import struct
import subprocess
import sys
import zlib

import numpy as np
import PIL.Image
import pytest

from imagen_jax.data import decode

ROOT = pathlib.Path(__file__).parents[2]


def _pixels(height=48, width=64):
  y, x = np.mgrid[:height, :width]
  return np.stack([4 * x, 5 * y, 255 - 2 * x], axis=2).astype(np.uint8)


def _file(image, kind, **options):
  buffer = io.BytesIO()
  image.save(buffer, kind, **options)
  return buffer.getvalue()


def _png_claiming(width, height):
  """A PNG with a valid header of any size and no pixels."""

  def chunk(name, data):
    check = zlib.crc32(name + data)
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", check)

  head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
  return (
    b"\x89PNG\r\n\x1a\n"
    + chunk(b"IHDR", head)
    + chunk(b"IDAT", zlib.compress(b"\0" * 100))
    + chunk(b"IEND", b"")
  )


def _reason(data, max_pixels=decode.MAX_PIXELS):
  with pytest.raises(decode.Skip) as caught:
    decode.decode(data, max_pixels=max_pixels)
  with pytest.raises(decode.Skip) as sized:
    decode.size(data, max_pixels=max_pixels)
  assert str(sized.value) == str(caught.value)
  assert caught.value.reason in decode.REASONS
  return str(caught.value)


def test_lossless_files_give_their_pixels():
  image = PIL.Image.fromarray(_pixels())
  for data in (_file(image, "png"), _file(image, "webp", lossless=True)):
    np.testing.assert_array_equal(decode.decode(data), _pixels())
    assert decode.size(data) == (64, 48)
  near = decode.decode(_file(image, "jpeg", quality=95)).astype(int)
  assert 0 < np.abs(near - _pixels()).mean() < 3


def test_large_images_are_joined_from_strips():
  pixels = np.random.default_rng(0).integers(0, 256, (701, 1003, 3), np.uint8)
  image = PIL.Image.fromarray(pixels)
  assert pixels.size > 3 * 2 * decode._STRIP
  np.testing.assert_array_equal(decode.decode(_file(image, "png")), pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_that_of_pillow(orientation):
  from PIL import ImageOps

  exif = PIL.Image.Exif()
  exif[0x0112] = orientation
  image = PIL.Image.fromarray(_pixels())
  data = _file(image, "png", exif=exif)
  expected = np.asarray(
    ImageOps.exif_transpose(PIL.Image.open(io.BytesIO(data)))
  )
  np.testing.assert_array_equal(decode.decode(data), expected)
  assert decode.size(data) == expected.shape[1::-1]


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_unknown_orientations_are_upright(orientation):
  exif = PIL.Image.Exif()
  exif[0x0112] = orientation
  data = _file(PIL.Image.fromarray(_pixels()), "png", exif=exif)
  np.testing.assert_array_equal(decode.decode(data), _pixels())


def test_damaged_exif_does_not_matter():
  data = _file(
    PIL.Image.fromarray(_pixels()), "png", exif=b"Exif\0\0MM\0*\xff\xff"
  )
  np.testing.assert_array_equal(decode.decode(data), _pixels())


def test_transparency_is_laid_on_white():
  rgba = np.dstack([_pixels(), np.zeros((48, 64), np.uint8)])
  rgba[:24, :, 3] = 255
  rgba[0, 0] = (0, 0, 0, 102)  # 40 % black
  found = decode.decode(_file(PIL.Image.fromarray(rgba), "png"))
  np.testing.assert_array_equal(found[1:24], _pixels()[1:24])
  assert (found[24:] == 255).all()
  assert found[0, 0].tolist() == [153] * 3
  keyed = PIL.Image.fromarray(_pixels())
  found = decode.decode(_file(keyed, "png", transparency=(8, 5, 251)))
  assert found[1, 2].tolist() == [255] * 3 and found[1, 3].tolist() != [255] * 3


def test_grey_of_16_bits_keeps_its_upper_byte():
  grey = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * 16
  found = decode.decode(_file(PIL.Image.fromarray(grey), "png"))
  assert (found == (grey >> 8)[:, :, None]).all()


@pytest.mark.parametrize(
  ("mode", "kind"),
  [("1", "png"), ("L", "png"), ("L", "jpeg"), ("LA", "png"), ("P", "png"),
   ("RGBA", "webp"), ("CMYK", "jpeg")],
)  # fmt: skip
def test_odd_modes_look_as_they_should(mode, kind):
  grey = PIL.Image.fromarray(_pixels()).convert("L").convert("RGB")
  found = decode.decode(_file(grey.convert(mode), kind))
  tolerance = {"1": 128, "P": 20}.get(mode, 6)
  difference = np.abs(found.astype(int) - np.asarray(grey))
  assert difference.mean() < tolerance and found.shape == (48, 64, 3)


def test_bombs_are_refused_by_their_header():
  assert _reason(_png_claiming(60_000, 60_000)) == (
    "too many pixels (60000x60000, over 28,000,000)"
  )
  assert _reason(_png_claiming(1, 65_536)).endswith("over 65535 a side)")
  image = PIL.Image.fromarray(_pixels())
  for data in (_file(image, "png"), _file(image, "jpeg"), _file(image, "webp")):
    assert _reason(data, 64 * 48 - 1).startswith("too many pixels (64x48")
    assert decode.decode(data, max_pixels=64 * 48).shape == (48, 64, 3)


def test_what_else_is_skipped():
  frames = [PIL.Image.fromarray(_pixels() // k) for k in (1, 2, 3)]
  for kind in ("png", "webp"):
    data = _file(frames[0], kind, save_all=True, append_images=frames[1:])
    assert _reason(data) == "animated (3 frames)"
  wrong = "not a JPEG, PNG or WebP file"
  assert _reason(b"") == f"{wrong} (it begins with b'')"
  assert _reason(_file(frames[0], "gif")).startswith(f"{wrong} (it begins")
  assert _reason(b"%!PS-Adobe-3.0 EPSF").startswith(wrong)
  for kind in ("jpeg", "png", "webp"):
    data = _file(frames[0], kind)
    assert _reason(data[: len(data) // 2]).startswith("damaged (")
  # Several pictures in a JPEG, as telephones make them: the first is taken.
  several = _file(frames[0], "mpo", save_all=True, append_images=frames[1:])
  assert decode.decode(several).mean() > 80


def _large_files():
  """What costs most: at the limits, beyond them, and lying about it."""
  claims = [
    (5600, 5600), (20_000, 20_000), (2**31 - 1, 2**31 - 1), (400, 65_535),
    (1, 32_000_000), (32_000_000, 1),
  ]  # fmt: skip
  files = [_png_claiming(*claim) for claim in claims]
  for mode, size, kind in (
    ("RGBA", (5000, 5000), "png"),
    ("L", (5600, 5600), "png"),
    ("1", (13_000, 13_000), "png"),
    ("L", (8000, 4001), "jpeg"),
    ("RGB", (16_383, 2000), "webp"),
  ):
    files.append(_file(PIL.Image.new(mode, size, 1), kind))
  huge = bytearray(_file(PIL.Image.fromarray(_pixels()), "webp"))
  huge[26:30] = b"\xff\x3f\xff\x3f"  # 16383x16383
  return [*files, bytes(huge)]


def _hostile_files(count):
  rng = random.Random(21)
  image = PIL.Image.fromarray(_pixels())
  seeds = [
    _file(image.convert(mode), kind)
    for kind, modes in (
      ("jpeg", ("RGB", "CMYK", "L")),
      ("png", ("RGB", "RGBA", "P", "LA", "I;16", "1")),
      ("webp", ("RGB", "RGBA")),
    )
    for mode in modes
  ]
  for kind in ("png", "webp", "gif", "tiff"):
    frames = [image.rotate(90), image.rotate(180)]
    seeds.append(_file(image, kind, save_all=True, append_images=frames))
  files = _large_files()
  while len(files) < count:
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((0, 1, 1, 3, 30))):
      data[rng.randrange(len(data))] = rng.randrange(256)
    if rng.random() < 0.3:
      del data[rng.randrange(len(data)) :]
    if rng.random() < 0.1:
      at = rng.randrange(len(data) + 1)
      data[at:at] = rng.randbytes(rng.randrange(64))
    files.append(bytes(data))
  return files


_DECODE_ALL = """
import collections, json, pathlib, sys, time, warnings
import numpy as np
from imagen_jax.data import decode

warnings.simplefilter("ignore")  # of damaged EXIF
files = [path.read_bytes() for path in pathlib.Path(sys.argv[1]).iterdir()]

def memory(name):
  text = pathlib.Path("/proc/self/status").read_text()
  return int(text.split(name)[1].split()[0]) / 1024

before, slowest, outcomes = memory("VmRSS:"), 0.0, collections.Counter()
for data in files:
  started = time.monotonic()
  try:
    pixels = decode.decode(data)
    assert pixels.dtype == np.uint8 and pixels.shape[2] == 3
    outcomes["decoded"] += 1
  except decode.Skip as skip:
    outcomes[skip.reason] += 1
  slowest = max(slowest, time.monotonic() - started)
growth = memory("VmHWM:") - before
print(json.dumps({"growth": growth, "slowest": slowest} | outcomes))
"""


def test_2000_hostile_files_cause_no_death_and_little_growth(tmp_path):
  """Goal 21: 0 deaths, at most 200 MB more memory, 1 s for each."""
  if not sys.platform.startswith("linux"):
    pytest.skip("reads the peak of memory from /proc")
  for i, data in enumerate(_hostile_files(2000)):
    (tmp_path / f"{i:04d}").write_bytes(data)
  ended = subprocess.run(
    [sys.executable, "-c", _DECODE_ALL, tmp_path],
    cwd=ROOT, capture_output=True, text=True, check=False,
  )  # fmt: skip
  assert ended.returncode == 0, ended.stderr[-2000:]
  figures = json.loads(ended.stdout)
  print(figures)
  assert figures.pop("growth") < 200
  assert figures.pop("slowest") < 5  # 1 s on a machine that is left alone
  assert sum(figures.values()) == 2000
  assert min(figures[name] for name in ("decoded", *decode.REASONS)) > 5
