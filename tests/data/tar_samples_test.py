"""Archives as samples, whole and damaged."""

import tarfile

import pytest

from imagen_jax.data import tar_samples
from tests import image_files

MEMBERS = {
  "a/1.JPG": b"one",
  "a/1.txt": b"text",
  "a.b/2.x.jpg": b"two!",
  "1": b"bare",
}


def read(path, wanted=lambda extension, size: True):
  with open(path, "rb") as file:
    return list(tar_samples.read(file, wanted=wanted))


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
def test_members_side_by_side_are_a_sample(tmp_path, name):
  path = image_files.write_tar(tmp_path / name, MEMBERS)
  assert read(path) == [
    ("a/1", {"jpg": (3, b"one"), "txt": (4, b"text")}),
    ("a.b/2", {"x.jpg": (4, b"two!")}),
    ("1", {"": (4, b"bare")}),
  ]


def test_what_is_not_wanted_has_a_size_alone(tmp_path):
  path = image_files.write_tar(tmp_path / "a.tar", MEMBERS)
  found = dict(read(path, lambda extension, size: size < 4))
  assert found["a/1"] == {"jpg": (3, b"one"), "txt": (4, b"")}


def test_links_and_folders_are_no_parts(tmp_path):
  path = tmp_path / "a.tar"
  with tarfile.open(path, "w") as tar:
    for name, kind in (("1.jpg", tarfile.SYMTYPE), ("b.c", tarfile.DIRTYPE)):
      info = tarfile.TarInfo(name)
      info.type, info.linkname = kind, "/etc/passwd"
      tar.addfile(info)
  assert read(path) == []


@pytest.mark.parametrize("at", [0, 1024, 2048])
def test_a_damaged_header_is_not_taken_for_the_end(tmp_path, at):
  path = image_files.write_tar(tmp_path / "a.tar", MEMBERS)
  data = bytearray(path.read_bytes())
  assert data[at : at + 1] in (b"a",)
  data[at] ^= 1
  path.write_bytes(data)
  with pytest.raises(tarfile.TarError):
    read(path)
