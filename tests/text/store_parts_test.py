"""Who may write in a folder."""

import pytest

from imagen_jax.core import errors
from imagen_jax.text import store_parts


def test_a_new_folder_is_made(tmp_path):
  out = tmp_path / "a" / "b"
  assert store_parts.open_folder(out) == out
  assert out.is_dir()


def test_a_folder_of_something_else_is_refused(tmp_path):
  (tmp_path / "photo.jpg").write_bytes(b"")
  with pytest.raises(errors.BadInput, match="is not empty and holds no"):
    store_parts.open_folder(tmp_path)
  with pytest.raises(errors.BadInput, match=r"cannot write in .*File exists"):
    store_parts.open_folder(tmp_path / "photo.jpg")
  with pytest.raises(errors.BadInput, match="is not a local folder"):
    store_parts.open_folder("gs://bucket/store")


def test_one_run_of_a_host_at_a_time(tmp_path):
  with store_parts.alone(tmp_path, "host-0-of-2"):
    with (
      pytest.raises(errors.BadInput, match="another run writes host-0-of-2"),
      store_parts.alone(tmp_path, "host-0-of-2"),
    ):
      pass
    with store_parts.alone(tmp_path, "host-1-of-2"):
      pass
  with store_parts.alone(tmp_path, "host-0-of-2"):
    pass
