"""Images in WebDataset tars and in Parquet files, as streams.

  .tar      KEY.jpg (or png, webp) with its caption in KEY.txt, or in a field of
            KEY.json: what img2dataset writes; also .tar.gz
  .parquet  a column of images, as bytes or as {"bytes", "path"}, and a column
            of texts or of lists of texts: what Hugging Face datasets write

An archive or a table that is damaged as such is a DataError; an image in it is
only passed on, and is judged when it is decoded.
"""

import contextlib
import json
import tarfile
import zlib
from collections.abc import Iterator, Mapping

from etils import epath

from imagen_jax.core import errors
from imagen_jax.data import caption_fields, image_item, tar_samples

IMAGE_FIELDS = ("image", "jpg", "png", "webp", "img", "image_bytes", "bytes")
_ROWS = 32  # of Parquet in memory


def read_tar(path: str, field: str | None = None) -> Iterator[image_item.Item]:
  """The samples of an archive, in its order."""
  try:
    with epath.Path(path).open("rb") as file:
      for key, parts in tar_samples.read(file, wanted=_fits):
        yield _sample(f"{epath.Path(path).stem}/{key}", parts, field)
  except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
    raise errors.DataError(
      f"{path} cannot be read ({error}); it is damaged or not complete."
    ) from error


def _fits(extension: str, size: int) -> bool:
  return size <= image_item.MAX_BYTES


Parts = Mapping[str, tar_samples.Part]


def _sample(key: str, parts: Parts, field: str | None) -> image_item.Item:
  key = caption_fields.text(key, where=key)
  images = [e for e in parts if e in image_item.EXTENSIONS]
  if not images:
    detail = f"only {', '.join(sorted(parts))}"
    return image_item.Item(key, problem="no image", detail=detail)
  size, image = parts[images[0]]
  if size > image_item.MAX_BYTES:
    return image_item.too_large(key, size)
  try:
    texts = _captions(parts, field, where=key)
    return image_item.Item(key, image, image_item.given(texts))
  except errors.ImagenError as error:
    return image_item.Item(key, problem="bad caption", detail=str(error))


def _captions(
  parts: Parts, field: str | None, *, where: str
) -> list[str | None]:
  """As `caption_files` reads them, to the letter."""
  if field is None and "txt" in parts:
    text = caption_fields.text(parts["txt"].data, where=f"{where}.txt")
    return [text.removesuffix("\n").removesuffix("\r")]
  if "json" not in parts:
    return []
  try:
    content = json.loads(parts["json"].data)
  except (ValueError, RecursionError) as error:
    raise errors.DataError(f"{where}.json is not JSON ({error}).") from error
  return list(caption_fields.read(content, field, where=f"{where}.json"))


def count_parquet(path: str) -> int:
  """How many rows a Parquet file has."""
  with _table(path) as table:
    return table.metadata.num_rows


def read_parquet(
  path: str, field: str | None = None, image_field: str | None = None
) -> Iterator[image_item.Item]:
  """The rows of a table, in its order."""
  with _table(path) as table:
    names = table.schema_arrow.names
    image_field = caption_fields.choose(
      image_field, names, where=path, preferred=IMAGE_FIELDS
    )
    field = caption_fields.choose(field, names, where=path)
    rows = (
      row
      for batch in table.iter_batches(_ROWS, columns=[image_field, field])
      for row in zip(
        *(batch.column(name) for name in (image_field, field)), strict=True
      )
    )
    for number, (image, texts) in enumerate(rows):
      key = f"{epath.Path(path).stem}/{number:08d}"
      yield _row(key, image.as_py(), texts.as_py())


def _row(key: str, image: object, texts: object) -> image_item.Item:
  if isinstance(image, dict):
    image = image.get("bytes")
  if not isinstance(image, bytes):
    detail = f"no bytes but {type(image).__name__}"
    return image_item.Item(key, problem="no image", detail=detail)
  if len(image) > image_item.MAX_BYTES:
    return image_item.too_large(key, len(image))
  try:
    captions = image_item.given(caption_fields.texts(texts, where=key))
    return image_item.Item(key, image, captions)
  except errors.ImagenError as error:
    return image_item.Item(key, problem="bad caption", detail=str(error))


@contextlib.contextmanager
def _table(path: str) -> Iterator:
  try:
    import pyarrow
    from pyarrow import parquet
  except ImportError as error:
    raise errors.BadInput(
      f"{path} needs pyarrow; run: pip install pyarrow"
    ) from error
  try:
    with epath.Path(path).open("rb") as file:
      yield parquet.ParquetFile(file)
  except (OSError, pyarrow.ArrowException, UnicodeDecodeError) as error:
    raise errors.DataError(f"{path} is not Parquet ({error}).") from error
