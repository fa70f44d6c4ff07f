"""Properties of the core: shapes, keys, trees, pixels and files."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.core import errors, files, images, rng, shapes, tree


def test_bcast_right_appends_axes_and_refuses_to_drop_them():
  assert shapes.bcast_right(jnp.ones(3), 4).shape == (3, 1, 1, 1)
  with pytest.raises(ValueError, match="cannot have 1 axes"):
    shapes.bcast_right(jnp.ones((3, 2)), 1)


def test_mean_flat_keeps_the_batch():
  x = jnp.arange(12.0).reshape(2, 3, 2)
  np.testing.assert_allclose(shapes.mean_flat(x), [2.5, 8.5])


def test_check_divisible_names_both_numbers_and_the_neighbours():
  shapes.check_divisible(64, 8, "height")
  with pytest.raises(errors.BadInput, match="height 100 .* 8; use 96 or 104"):
    shapes.check_divisible(100, 8, "height")


def test_named_keys_are_stable_and_independent():
  key = jax.random.key(0)

  def bits(k):
    return jax.random.bits(k).item()

  time, noise = rng.key_for(key, "time", 3), rng.key_for(key, "noise", 3)
  assert bits(time) == bits(rng.key_for(key, "time", 3))
  assert bits(time) != bits(noise)
  assert bits(time) != bits(rng.key_for(key, "time", 4))


def test_example_keys_do_not_depend_on_the_batch():
  key = jax.random.key(1)
  many = rng.keys_for(key, "image", jnp.arange(5))
  one = rng.keys_for(key, "image", jnp.array([3]))
  assert (jax.random.key_data(many[3]) == jax.random.key_data(one[0])).all()


def test_trees_round_trip_through_slash_names():
  params = {"a": {"w": jnp.ones((2, 3)), "b": jnp.ones(3)}, "c": jnp.ones(1)}
  flat = tree.flatten(params)
  assert list(flat) == ["a/b", "a/w", "c"]
  assert tree.diff(tree.unflatten(flat), params) == ""
  assert tree.count(params) == 10
  assert tree.size_bytes(tree.cast(params, jnp.bfloat16)) == 20
  assert tree.mask(params, "a/.*") == {"a": {"w": True, "b": True}, "c": False}


def test_tree_diff_names_what_differs():
  a = {"w": jnp.ones(2), "only_a": jnp.ones(1)}
  b = {"w": jnp.ones(3)}
  assert tree.diff(a, b) == (
    "only_a: (1,) float32 | missing\nw: (2,) float32 | (3,) float32"
  )


def test_every_uint8_survives_the_round_trip():
  pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
  x = images.from_uint8(pixels)
  assert x.min() == -1 and x.max() == 1
  np.testing.assert_array_equal(images.to_uint8(x), pixels)


def test_upsampling_keeps_constants_and_antialiasing_keeps_the_mean():
  x = jax.random.uniform(jax.random.key(0), (1, 8, 8, 3))
  small = images.resize_antialias(x, (4, 4))
  np.testing.assert_allclose(small.mean(), x.mean(), atol=0.02)
  flat = images.upsample_bilinear(jnp.full((1, 4, 4, 3), 0.25), (16, 16))
  np.testing.assert_allclose(flat, 0.25, rtol=1e-6)


def test_png_keeps_pixels_and_any_text(tmp_path):
  pixels = np.random.default_rng(0).integers(0, 256, (8, 9, 3), np.uint8)
  text = {"prompt": "ein Käfer 🐞", "seed": "7"}
  images.write_png(tmp_path / "a.png", pixels, text)
  read, metadata = images.read_png(tmp_path / "a.png")
  np.testing.assert_array_equal(read, pixels)
  assert metadata == text


def test_a_damaged_image_is_one_clear_line(tmp_path):
  (tmp_path / "a.png").write_bytes(b"not an image")
  with pytest.raises(errors.BadInput, match="as an image"):
    images.read_png(tmp_path / "a.png")


def test_grid_places_every_image():
  pixels = np.arange(5, dtype=np.uint8)[:, None, None, None]
  sheet = images.grid(np.broadcast_to(pixels, (5, 2, 2, 3)), 3, gap=1)
  assert sheet.shape == (7, 10, 3)
  assert sheet[1, 1, 0] == 0 and sheet[4, 4, 0] == 4 and sheet[4, 7, 0] == 255


def test_jsonl_passes_over_a_torn_last_line(tmp_path):
  path = tmp_path / "m.jsonl"
  files.append_jsonl(path, {"step": 1})
  with open(path, "a") as file:
    file.write(json.dumps({"step": 2})[:-3])
  assert list(files.read_jsonl(path)) == [{"step": 1}]


def test_an_unwritable_folder_is_bad_input(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(errors.BadInput, match="cannot write in"):
    files.check_writable(tmp_path / "file" / "below")


def test_atomic_write_leaves_nothing_beside(tmp_path):
  files.atomic_write(tmp_path / "x.bin", b"abc")
  assert [p.name for p in tmp_path.iterdir()] == ["x.bin"]
  assert files.sha256_file(tmp_path / "x.bin").startswith("ba7816bf")


def test_sizes_for_people():
  sizes = [0, 12, 999, 999.6, 1234, 468_900_000, 9.52e9, 3e12, 5e15]
  assert [files.size_text(size) for size in sizes] == [
    "0 B",
    "12 B",
    "999 B",
    "1 kB",
    "1.23 kB",
    "469 MB",
    "9.52 GB",
    "3 TB",
    "5e+03 TB",
  ]


def test_a_digest_of_several_files_depends_on_each_and_on_their_order(tmp_path):
  a, b = tmp_path / "a", tmp_path / "b"
  a.write_text("1"), b.write_text("2")
  both = files.sha256_files([a, b])
  assert both != files.sha256_files([b, a])
  b.write_text("3")
  assert both != files.sha256_files([a, b])


def test_a_torn_line_costs_itself_alone(tmp_path):
  path = tmp_path / "events.jsonl"
  files.append_jsonl(path, {"a": 1})
  with open(path, "a") as file:
    file.write('{"b": ')
  assert list(files.read_jsonl(path)) == [{"a": 1}]
  files.append_jsonl(path, {"c": "ü"})
  files.append_jsonl(path, {"d": 4})
  assert list(files.read_jsonl(path)) == [{"a": 1}, {"c": "ü"}, {"d": 4}]


@pytest.mark.parametrize("case", range(3))
def test_corners_stay_where_torch_keeps_them(case):
  """golden: torch 2.13.0, bilinear, align_corners=True, times 4."""
  path = pathlib.Path(__file__).parents[1] / "golden/deepfloyd/steps.npz"
  with np.load(path) as golden:
    x = golden[f"resize_{case}_x"].transpose(0, 2, 3, 1)
    expected = golden[f"resize_{case}_bilinear_align_corners"]
  expected = expected.transpose(0, 2, 3, 1)
  size = expected.shape[1:3]
  got = images.upsample_corners(jnp.asarray(x), size)
  np.testing.assert_allclose(got, expected, rtol=0, atol=2e-6)
  other = images.upsample_bilinear(jnp.asarray(x), size)
  assert np.abs(other - expected).max() > 0.1
  np.testing.assert_array_equal(
    images.upsample_corners(jnp.asarray(x), x.shape[1:3]), x
  )
