"""How an embedding store is laid out on disk: names, records, manifest.

  embeddings-00000-of-00003.array_record   one record for each unique caption
  captions.npy, records.npy, examples.npy  the index, see `store_index`
  manifest.json                            what all of it is, with SHA-256s

A record is the digest of its caption (16 bytes) and the states of its m real
tokens, little-endian, without padding:

  bfloat16   [m d]
  int8       scale [m] float32, then q [m d]; state = scale * q,
             scale = max |state| / 127 of the token, error <= scale / 2

Nothing in a store depends on when, where or in how many attempts it was made.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Literal, NamedTuple, TypeAlias, TypeVar, get_args

import ml_dtypes
import numpy as np
from jaxtyping import Float32

from imagen_jax.core import errors, files
from imagen_jax.text import store_index

FORMAT = 1
MANIFEST = "manifest.json"
PARTS = ".parts"  # of a store that is still being written
INDEX_FILES = tuple(f"{name}.npy" for name in store_index.Index._fields)

Dtype: TypeAlias = Literal["bfloat16", "int8"]
DTYPES = get_args(Dtype)
T = TypeVar("T")

# What ArrayRecord spends on a record, with one record a chunk.
_RECORD_OVERHEAD = 72


class Identity(NamedTuple):
  """What made the embeddings. On opening, None accepts whatever is there."""

  encoder: str | None = None
  weights: str | None = None  # fingerprint
  tokenizer: str | None = None  # SHA-256 of its file
  max_length: int | None = None
  width: int | None = None  # d
  clean: str | None = None  # the cleaning of captions, by name


@dataclasses.dataclass(frozen=True)
class Shard:
  """One line of a manifest."""

  file: str
  records: int
  tokens: int
  truncated: int  # captions that did not fit max_length
  bytes: int
  sha256: str


@dataclasses.dataclass(frozen=True)
class IndexFile:
  """Size and digest of one array of the index."""

  file: str
  bytes: int
  sha256: str


@dataclasses.dataclass(frozen=True)
class Manifest:
  """What a store holds, and the SHA-256 of the manifest itself."""

  plan: dict[str, files.Json]  # see `make_plan`
  identity: Identity
  dtype: str
  examples: int
  captions: int  # unique ones, which are records
  tokens: int
  truncated: int
  shards: tuple[Shard, ...]
  indexes: tuple[IndexFile, ...]
  fingerprint: str


def make_plan(
  identity: Identity,
  *,
  dtype: Dtype,
  shard_size: int,
  captions_sha256: str,
  settings: Mapping[str, files.Json],
) -> dict[str, files.Json]:
  """All that decides the bytes of a store, as a flat dict."""
  return {
    "format": FORMAT,
    **identity._asdict(),
    "dtype": dtype,
    "shard_size": shard_size,
    "captions_sha256": captions_sha256,  # of all digests, in order
    "settings": dict(settings),
  }


def differences(
  has: Mapping[str, files.Json], asked: Mapping[str, files.Json]
) -> str:
  """Each field that is asked for (not None) and differs, in words."""
  return "; ".join(
    f"{name}: the store has {_brief(has.get(name))}, asked was {_brief(value)}"
    for name, value in asked.items()
    if value is not None and has.get(name) != value
  )


def _brief(value: files.Json) -> str:
  text = json.dumps(value, ensure_ascii=False)
  return f"{text[:13]}..." if len(text) == 66 else text  # a SHA-256


def shard_name(number: int, count: int) -> str:
  """The name of a shard's file."""
  return f"embeddings-{number:05d}-of-{count:05d}.array_record"


def to_json(
  plan: Mapping[str, files.Json],
  *,
  examples: int,
  shards: list[Shard],
  indexes: list[IndexFile],
) -> dict[str, files.Json]:
  """The content of manifest.json."""
  return {
    **plan,
    "counts": {
      "examples": examples,
      "captions": sum(shard.records for shard in shards),
      "tokens": sum(shard.tokens for shard in shards),
      "truncated": sum(shard.truncated for shard in shards),
    },
    "shards": [dataclasses.asdict(shard) for shard in shards],
    "indexes": [dataclasses.asdict(index) for index in indexes],
  }


def read_manifest(folder: files.PathLike) -> Manifest:
  """The manifest of a store; BadInput if there is none, else DataError."""
  path = pathlib.Path(folder) / MANIFEST
  try:
    content = files.parse_json(path.read_bytes())
    if content["format"] != FORMAT:
      raise ValueError(f"format {content['format']}, not {FORMAT}")
    if content["dtype"] not in DTYPES:
      raise ValueError(f"dtype {content['dtype']!r}")
    apart = ("counts", "shards", "indexes")
    return Manifest(
      plan={name: content[name] for name in content if name not in apart},
      identity=Identity(*(content[name] for name in Identity._fields)),
      dtype=content["dtype"],
      shards=tuple(_line(Shard, line) for line in content["shards"]),
      indexes=tuple(_line(IndexFile, line) for line in content["indexes"]),
      fingerprint=files.sha256_file(path),
      **{name: int(count) for name, count in content["counts"].items()},
    )
  except FileNotFoundError as error:
    if (path.parent / PARTS).exists():
      raise errors.DataError(
        f"the store {str(folder)!r} is not finished; run `imagen embed` again."
      ) from error
    raise errors.BadInput(
      f"no {MANIFEST} in {str(folder)!r}; give the folder of a store that"
      " `imagen embed` made."
    ) from error
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise errors.DataError(
      f"{str(path)!r} is not the manifest of an embedding store ({error!r});"
      " give another folder, or make the store again with `imagen embed`."
    ) from error


def _line(kind: type[T], content: dict[str, files.Json]) -> T:
  """A line of a manifest, which may be another's: no path, no odd numbers."""
  line = kind(**content)
  if not files.is_plain_name(line.file):
    raise ValueError(f"{line.file!r} is not the name of a file beside it")
  for field in dataclasses.fields(kind):
    value = getattr(line, field.name)
    if not isinstance(value, field.type) or (field.type is int and value < 0):
      raise ValueError(f"{line.file} has {field.name} {value!r}")
  return line


def encode_row(row: Float32[np.ndarray, "m d"], dtype: Dtype) -> bytes:
  """The states of one caption as bytes."""
  if dtype == "bfloat16":
    return row.astype(ml_dtypes.bfloat16).tobytes()
  scale = (np.abs(row).max(axis=1, initial=0.0) / 127).astype(np.float32)
  divisor = np.where(scale > 0, scale, 1)[:, None]
  q = np.clip(np.rint(row / divisor), -127, 127).astype(np.int8)
  return scale.tobytes() + q.tobytes()


def decode_row(
  data: bytes, dtype: Dtype, width: int
) -> Float32[np.ndarray, "m {width}"]:
  """Bytes -> states; ValueError where they are no whole tokens."""
  m, rest = divmod(len(data), bytes_per_token(dtype, width))
  if rest:
    raise ValueError(f"{len(data)} bytes are not tokens of width {width}")
  if dtype == "bfloat16":
    states = np.frombuffer(data, ml_dtypes.bfloat16).astype(np.float32)
    return states.reshape(m, width)
  scale = np.frombuffer(data, np.float32, m)
  q = np.frombuffer(data, np.int8, offset=scale.nbytes).reshape(m, width)
  return q * scale[:, None]


def bytes_per_token(dtype: Dtype, width: int) -> int:
  """What one token takes on disk."""
  return 2 * width if dtype == "bfloat16" else 4 + width


def estimate_bytes(
  *, examples: int, captions: int, tokens: int, dtype: Dtype, width: int
) -> int:
  """The size of a store of so many examples, unique captions and tokens."""
  record = store_index.DIGEST_BYTES + _RECORD_OVERHEAD
  index = store_index.DIGEST_BYTES + 8  # digest and record number
  return (
    tokens * bytes_per_token(dtype, width)
    + captions * (record + index)
    + examples * 8
  )
