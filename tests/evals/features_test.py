"""Features of many images: any batch, any device, any stop gives the same."""

import dataclasses
import io

import numpy as np
import PIL.Image
import pytest

from imagen_jax.core import errors
from imagen_jax.data import image_item
from imagen_jax.evals import features, image_set, image_streams


def tiny(calls=None, tag="a"):
  """Mean and deviation of each channel, of images made 4 x 4."""

  def prepare(pixels):
    if calls is not None:
      calls.append(1)
    return pixels[:4, :4].astype(np.float32)

  def apply(params, x):
    return {
      "mean": x.mean(axis=(1, 2)) * params["w"],
      "std": x.std(axis=(1, 2)),
    }

  return features.Network(
    prepare, apply, {"w": np.float32(2)}, {"weights": tag}
  )


def item(seed, size=(6, 5)):
  draw = np.random.default_rng(seed)
  pixels = draw.integers(0, 256, (*size, 3), dtype=np.uint8)
  return image_item.Item(f"{seed}.png", image_item.png(pixels)), pixels


@pytest.fixture
def small_parts(monkeypatch):
  monkeypatch.setattr(features, "PART", 16)


def test_every_row_is_of_its_image(small_parts, tmp_path):
  items, pixels = zip(
    *(item(i, (6, 5 + i % 2)) for i in range(37)), strict=True
  )
  heard = []
  found = features.run(
    items, tiny(), cache=tmp_path, batch_size=5, progress=heard.append
  )
  expected = [2 * x[:4, :4].reshape(-1, 3).mean(axis=0) for x in pixels]
  np.testing.assert_allclose(found.rows["mean"], expected, rtol=1e-5)
  assert found.rows["std"].shape == (37, 3)
  assert found.keys == tuple(f"{i}.png" for i in range(37))
  assert found.sizes == {"5x6": 19, "6x6": 18}
  assert heard == [16, 32, 37]
  assert (
    features.run(items, tiny(), cache=tmp_path / "b").images == found.images
  )


def test_what_is_done_is_not_done_again(small_parts, tmp_path):
  items = [item(i)[0] for i in range(40)]

  def stopped():
    yield from items[:33]
    raise KeyboardInterrupt

  calls = []
  with pytest.raises(KeyboardInterrupt):
    features.run(stopped(), tiny(calls), cache=tmp_path)
  assert len(calls) == 32
  whole = features.run(items, tiny(calls), cache=tmp_path)
  assert len(calls) == 40
  # Half a file is no file.
  (first, *_) = sorted(tmp_path.glob("*.npz"))
  first.write_bytes(first.read_bytes()[:200])
  again = features.run(items, tiny(calls), cache=tmp_path)
  assert 48 <= len(calls) <= 56
  np.testing.assert_array_equal(again.rows["mean"], whole.rows["mean"])
  assert again.fingerprint == whole.fingerprint
  # Another image, or another network, is.
  calls.clear()
  items[0] = items[0]._replace(image=item(99)[0].image)
  other = features.run(items, tiny(calls), cache=tmp_path)
  assert len(calls) == 16 and other.images != whole.images
  found = features.run(items, tiny(calls, "b"), cache=tmp_path)
  assert len(calls) == 56
  assert found.images == other.images
  assert found.fingerprint != other.fingerprint


def test_damaged_images_are_named_or_left_out(tmp_path):
  good, _ = item(1)
  half = image_item.Item("half.png", good.image[:60])
  large = image_item.too_large("large.png", 1 << 40)
  with pytest.raises(errors.DataError, match="'half.png' cannot be read: dama"):
    features.run([good, half], tiny(), cache=tmp_path)
  for _ in range(2):  # computed, and as it was kept
    found = features.run(
      [half, good, large], tiny(), cache=tmp_path, skip_damaged=True
    )
    assert found.keys == ("1.png",) and len(found.rows["mean"]) == 1
    assert [line.split(":")[0] for line in found.skipped] == [
      "half.png",
      "large.png",
    ]
  with pytest.raises(errors.DataError, match="half.png"):
    features.run([half, good, large], tiny(), cache=tmp_path)
  with pytest.raises(errors.BadInput, match="no images that can be read"):
    features.run([half], tiny(), cache=tmp_path, skip_damaged=True)
  with pytest.raises(errors.BadInput, match="batch_size 0"):
    features.run([good], tiny(), cache=tmp_path, batch_size=0)


def test_a_folder_is_read_in_order_and_other_files_are_counted(tmp_path):
  (tmp_path / "b").mkdir()
  for name in ("b/1.png", "c.jpg", "a.png", "b/contact_sheet.png"):
    PIL.Image.new("RGB", (4, 4)).save(tmp_path / name)
  for name in ("notes.txt", "manifest.json.bak", ".hidden.png"):
    (tmp_path / name).write_bytes(b"x")
  stream = image_streams.open_stream(str(tmp_path))
  keys = [found.key for found in stream.read()]
  assert keys == ["a.png", "b/1.png", "c.jpg"]
  assert (stream.count, stream.others) == (3, 3)
  two = image_streams.open_stream(str(tmp_path), count=2)
  assert [found.key for found in two.read()] == keys[:2]
  with pytest.raises(errors.BadInput, match="holds 3 images, and 4 are asked"):
    image_streams.open_stream(str(tmp_path), count=4)
  endless = dataclasses.replace(stream, count=None)
  with pytest.raises(errors.BadInput, match="holds 3 images, and 5 are asked"):
    list(image_streams._first(endless, 5))
  (tmp_path / "empty").mkdir()
  with pytest.raises(errors.BadInput, match="holds no images"):
    image_streams.open_stream(str(tmp_path / "empty"))
  with pytest.raises(errors.BadInput, match="nowhere"):
    image_streams.open_stream("nowhere")


def test_of_a_set_with_a_manifest_what_it_names_is_read(tmp_path):
  for name in ("a.png", "b.png", "old.png"):
    PIL.Image.new("RGB", (4, 4)).save(tmp_path / name)
  entries = [image_set.Entry(name, "a cat") for name in ("b.png", "a.png")]
  image_set.write(tmp_path, entries, {})
  stream = image_streams.open_stream(str(tmp_path))
  assert [found.key for found in stream.read()] == ["b.png", "a.png"]
  assert (stream.count, stream.others) == (2, 2)
  (tmp_path / "a.png").unlink()
  with pytest.raises(errors.BadInput, match="1 images of .* are not there"):
    image_streams.open_stream(str(tmp_path))


def test_the_shipped_set_is_a_stream():
  stream = image_streams.open_stream("emoji:32", count=3)
  items = list(stream.read())
  assert [
    PIL.Image.open(io.BytesIO(i.image), formats=["PNG"]).size for i in items
  ] == [(32, 32)] * 3
  assert items[0].key.startswith("a 3D render of")
  assert items == list(stream.read())
