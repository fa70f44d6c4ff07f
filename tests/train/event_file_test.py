"""TensorBoard's files, read back by a reader of the test's own."""

import contextlib
import io
import struct

import numpy as np
import PIL.Image
import pytest

from imagen_jax.train import event_file


def crc_by_division(data):
  """CRC-32C as the remainder of a polynomial, bit by bit."""
  remainder = 0xFFFFFFFF
  for byte in data:
    remainder ^= byte
    for _ in range(8):
      low = remainder & 1
      remainder >>= 1
      if low:
        remainder ^= int("1EDC6F41", 16) and int(f"{0x1EDC6F41:032b}"[::-1], 2)
  return remainder ^ 0xFFFFFFFF


def masked(data):
  crc = crc_by_division(data)
  return ((crc >> 15 | (crc << 17 & 0xFFFFFFFF)) + 0xA282EAD8) & 0xFFFFFFFF


def records(path):
  data = path.read_bytes()
  while data:
    (length,) = struct.unpack("<Q", data[:8])
    body = data[12 : 12 + length]
    stored = (data[8:12], data[12 + length : 16 + length])
    for part, crc in zip((data[:8], body), stored, strict=True):
      assert struct.unpack("<I", crc)[0] == masked(part)
    data = data[16 + length :]
    yield body


def varint(data):
  number = shift = 0
  for i, byte in enumerate(data):
    number |= (byte & 0x7F) << shift
    shift += 7
    if byte < 0x80:
      return number, data[i + 1 :]
  raise AssertionError("a number that does not end")


def fields(data):
  """{field number: [value, ...]} of a message."""
  found = {}
  while data:
    key, data = varint(data)
    field, kind = key >> 3, key & 7
    if kind == 0:
      value, data = varint(data)
    else:
      length = {1: 8, 5: 4}.get(kind)
      if length is None:
        length, data = varint(data)
      value, data = data[:length], data[length:]
    found.setdefault(field, []).append(value)
  return found


def events(folder):
  """[(step, {tag: value})] of all files, without the headers."""
  found = []
  for path in sorted(folder.iterdir()):
    first, *rest = (fields(record) for record in records(path))
    assert first[3] == [b"brain.Event:2"]
    assert fields(rest[0][7][0]) == {1: [1]}  # a start
    for event in rest[1:]:
      values = [fields(value) for value in fields(event[5][0])[1]]
      found.append((event[2][0], {v[1][0].decode(): v for v in values}))
  return found


def test_curves_come_back_with_their_steps(tmp_path):
  writer = event_file.EventFile(tmp_path)
  writer.write_scalars(3, {"loss": 0.5, "loss/logsnr_-4_0": -2.0})
  writer.write_scalars(2_500_000, {"loss": 1e-6})
  writer.close()
  (step, first), (late, second) = events(tmp_path)
  assert (step, late) == (3, 2_500_000)
  assert list(first) == ["loss", "loss/logsnr_-4_0"]
  assert struct.unpack("<f", first["loss/logsnr_-4_0"][2][0]) == (-2.0,)
  assert struct.unpack("<f", second["loss"][2][0])[0] == np.float32(1e-6)


def test_pictures_come_back_to_the_pixel(tmp_path):
  pixels = np.random.default_rng(0).integers(0, 256, (7, 300, 3), np.uint8)
  writer = event_file.EventFile(tmp_path)
  writer.write_images(5, {"samples": pixels})
  writer.close()
  ((step, values),) = events(tmp_path)
  image = fields(values["samples"][4][0])
  assert step == 5 and [image[i][0] for i in (1, 2, 3)] == [7, 300, 3]
  read = PIL.Image.open(io.BytesIO(image[4][0]))
  np.testing.assert_array_equal(read, pixels)


def test_what_is_flushed_survives_and_each_start_has_its_own_file(tmp_path):
  with contextlib.ExitStack() as stack:
    for loss in (1.0, 2.0):
      writer = event_file.EventFile(tmp_path)
      stack.callback(writer.close)
      writer.write_scalars(1, {"loss": loss})
      writer.flush()
    assert len(list(tmp_path.iterdir())) == 2
    assert [step for step, _ in events(tmp_path)] == [1, 1]


def test_a_start_says_from_which_step_the_curves_are_drawn_anew(tmp_path):
  event_file.EventFile(tmp_path, 120).close()
  (path,) = tmp_path.iterdir()
  _, start = (fields(record) for record in records(path))
  assert start[2] == [121]


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_numbers_beyond_float32_do_not_stop_a_run(tmp_path, value):
  writer = event_file.EventFile(tmp_path)
  writer.write_scalars(1, {"x": value})
  writer.close()
  ((_, values),) = events(tmp_path)
  assert not np.isfinite(struct.unpack("<f", values["x"][2][0])[0])


def test_checksums_are_those_of_the_standard():
  assert event_file.crc32c(b"123456789") == 0xE3069283
  data = np.random.default_rng(1).bytes(999)
  assert event_file.crc32c(data) == crc_by_division(data)
  assert event_file.crc32c(data[:-1]) != event_file.crc32c(data)


@pytest.mark.parity
def test_tensorflow_reads_the_same(tmp_path):
  tf = pytest.importorskip(
    "tensorflow", reason="reads event files; comes with imagen_jax[data]"
  )
  writer = event_file.EventFile(tmp_path)
  writer.write_scalars(7, {"loss": 0.25})
  writer.write_images(7, {"samples": np.zeros((4, 5, 3), np.uint8)})
  writer.close()
  (path,) = tmp_path.iterdir()
  read = list(tf.compat.v1.train.summary_iterator(str(path)))
  assert read[0].file_version == "brain.Event:2"
  assert read[1].session_log.status == tf.compat.v1.SessionLog.START
  assert read[2].step == 7
  assert read[2].summary.value[0].simple_value == 0.25
  assert read[3].summary.value[0].image.width == 5
