"""Captions in files of every format, and files as odd as they come."""

import codecs
import csv
import gzip
import io
import json
import tarfile
import tracemalloc

import pytest

from imagen_jax.core import errors
from imagen_jax.data import caption_files

ODD = [
  "a red apple",
  "",
  "  spaces  ",
  "nul \0 inside",
  "form\ffeed, \x0b, \x85, \u2028, \u2029",
  "שלום, مرحبا \u202e",
  "🍎🏽 ﬁ e\u0301",
  '"quoted", said: ""',
  "tab\tand , comma",
  "x" * 1_000_000,
]
# Those that only quoting or escaping can hold.
LINES = ["two\nlines", "cr\r\nlf", "lone \r cr"]


def captions(path, field=None):
  return list(caption_files.read(str(path), field))


def write_table(path, rows, delimiter=","):
  with open(path, "w", newline="", encoding="utf-8") as file:
    csv.writer(file, delimiter=delimiter).writerows(rows)


def write_tar(path, members):
  with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as tar:
    for name, data in members.items():
      member = tarfile.TarInfo(name)
      member.size = len(data)
      tar.addfile(member, io.BytesIO(data))


def compressed(path):
  packed = path.parent / (path.name + ".gz")
  packed.write_bytes(gzip.compress(path.read_bytes()))
  return packed


def write_text(path, texts):
  path.write_bytes("".join(text + "\n" for text in texts).encode())


def write_json_lines(path, texts):
  lines = (json.dumps({"id": 1, "caption": text}) for text in texts)
  path.write_text("\n".join(lines))


def write_csv(path, texts):
  write_table(path, [["id", "caption"], *([i, t] for i, t in enumerate(texts))])


def write_tsv(path, texts):
  write_table(path, [["text"], *([text] for text in texts)], "\t")


def write_shard(path, texts):
  members = {f"{i:04}.json": {"text": text} for i, text in enumerate(texts)}
  members = {k: json.dumps(v).encode() for k, v in members.items()}
  write_tar(path, members)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
  ("name", "write", "texts"),
  [
    ("a.txt", write_text, ODD),
    ("a.jsonl", write_json_lines, ODD + LINES),
    ("a.csv", write_csv, ODD + LINES),
    ("a.tsv", write_tsv, ODD + LINES),
    ("a.tar", write_shard, ODD + LINES),
  ],
)
def test_odd_captions_come_back(tmp_path, name, write, texts, packed):
  path = tmp_path / name
  write(path, texts)
  assert captions(compressed(path) if packed else path) == texts


def test_parquet_texts_and_lists(tmp_path):
  pyarrow = pytest.importorskip("pyarrow", reason="pip install pyarrow")
  parquet = pytest.importorskip("pyarrow.parquet", reason="as above")
  path = tmp_path / "a.parquet"
  table = pyarrow.table(
    {
      "text": [*ODD, *LINES, None],
      "several": [["a", "b"], [], *[["c"]] * (len(ODD + LINES) - 1)],
      "number": range(len(ODD + LINES) + 1),
    }
  )
  parquet.write_table(table, path, row_group_size=3)
  assert captions(path) == [*ODD, *LINES, None]
  assert captions(path, "several")[:4] == ["a", "b", "c", "c"]
  with pytest.raises(errors.DataError, match=r"'number' of .* is int"):
    captions(path, "number")
  with pytest.raises(errors.BadInput, match="it has: text, several, number"):
    captions(path, "caption")
  path.write_bytes(path.read_bytes()[:-9])
  with pytest.raises(errors.DataError, match="is not Parquet"):
    captions(path)


def test_text_lines_end_with_newline_alone(tmp_path):
  path = tmp_path / "a.txt"
  path.write_bytes(codecs.BOM_UTF8 + b"one\r\ntwo\r\r\n\nlast\rpart")
  assert captions(path) == ["one", "two\r", "", "last\rpart"]
  path.write_bytes(b"")
  assert captions(path) == []


def test_fields_of_json(tmp_path):
  path = tmp_path / "a.jsonl"
  rows = [
    {"a": {"b": [{"c": "one"}, {"c": "two"}]}, "d/e": "x", "text": "t"},
    {"a": {"b": []}, "d/e": None, "text": ["y", "z"]},
  ]
  path.write_text("\n\n".join(map(json.dumps, rows)))
  assert captions(path, "a/b/c") == ["one", "two"]
  assert captions(path, "d/e") == ["x", None]
  assert captions(path) == ["t", "y", "z"]
  with pytest.raises(errors.BadInput, match=r"line 1 .* no field 'bb'.*'b'\?"):
    captions(path, "a/bb/c")


def test_lone_surrogates_become_question_marks(tmp_path):
  path = tmp_path / "a.jsonl"
  path.write_text(r'{"text": "a \ud800 b \ud83c\udf4e"}')
  assert captions(path) == ["a ? b 🍎"]


@pytest.mark.parametrize(
  ("name", "data", "message"),
  [
    ("a.txt", b"fine\nb\xffad\n", r"line 2 of .*a\.txt is not UTF-8"),
    ("a.txt", "cat".encode("utf-16"), "line 1 .* not UTF-8"),
    ("a.jsonl", b'{"text": "a"}\n{"text": ', "line 2 .* is not JSON"),
    ("a.jsonl", b"[" * 100_000, "line 1 .* is not JSON"),
    ("a.jsonl", b"7", "line 1 .* is int, expected an object"),
    ("a.jsonl", b'{"text": 7}', "'text' of line 1 .* is int, expected text"),
    (
      "a.csv",
      b"text,n\na,1\nb\n",
      "line 3 of .* has 1 cells, the header has 2",
    ),
    ("a.csv", b'text\n"a\nb\nc\n', "line 4 .* is not a row .unexpected end"),
    ("a.tsv", b'text\tn\n"a"b\t1\n', "line 2 of .* is not a row"),
    ("a.csv", b"text\na\n\xe9\n", "line 3 of .* is not UTF-8"),
    ("a.tar", b"no tar" * 200, "a.tar cannot be read"),
    ("a.txt.gz", b"no gzip", "a.txt.gz cannot be read"),
    ("a.txt.gz", gzip.compress(b"cat\n" * 999, mtime=0)[:-9], "not complete"),
  ],
)
def test_damaged_files_are_named_with_their_line(tmp_path, name, data, message):
  (tmp_path / name).write_bytes(data)
  with pytest.raises(errors.DataError, match=message) as caught:
    captions(tmp_path / name)
  assert "\n" not in str(caught.value)


def test_fields_that_are_not_there(tmp_path):
  path = tmp_path / "a.csv"
  write_table(path, [["url", "captions"], ["u", "c"]])
  with pytest.raises(
    errors.BadInput,
    match=r"header of .* no field 'caption' or 'text'; it has: url, captions\."
    r" Did you mean 'captions'\?",
  ):
    captions(path)
  assert captions(path, "captions") == ["c"]
  path.write_text("")
  with pytest.raises(errors.BadInput, match="it has: none"):
    captions(path)
  text = tmp_path / "a.txt"
  text.write_text("cat")
  with pytest.raises(errors.BadInput, match="plain text and has no field"):
    captions(text, "caption")


def test_a_webdataset_has_texts_or_json(tmp_path):
  path = tmp_path / "a.tar"
  example = json.dumps({"caption": "json", "alt": "other"}).encode()
  write_tar(
    path,
    {
      "x/0.cls.jpg": b"jpg",
      "x/0.txt": b"both\n",
      "x/0.json": example,
      "x/1.JSON": example,
      "y/1.txt": "\ufefftéxt".encode(),
      "y/2.jpg": b"none",
    },
  )
  assert captions(path) == ["both", "json", "\ufefftéxt", None]
  assert captions(path, "alt") == ["other", "other", None, None]
  write_tar(path, {"0.jpg": b"", "0.cls": b""})
  with pytest.raises(
    errors.BadInput, match="no KEY.txt or KEY.json, only: cls"
  ):
    captions(path)


@pytest.mark.parametrize("kept", [0, 700, 2000, 3584, 3700, 5000, 7168])
def test_a_truncated_shard_is_found(tmp_path, kept):
  path = tmp_path / "a.tar"
  write_tar(path, {"0.jpg": b"j" * 3000, "0.txt": b"t" * 3000})
  path.write_bytes(path.read_bytes()[:kept])
  with pytest.raises(errors.DataError, match="not complete"):
    captions(path)


def test_a_damaged_header_is_found(tmp_path):
  path = tmp_path / "a.tar"
  write_tar(path, {"0.txt": b"one", "1.txt": b"two"})
  assert captions(path) == ["one", "two"]
  data = bytearray(path.read_bytes())
  data[1024] ^= 1
  path.write_bytes(data)
  with pytest.raises(errors.DataError, match=r"cannot be read .bad checksum"):
    captions(path)


def test_files_are_found_in_order(tmp_path):
  for name in ("b-1.txt", "b-0.txt", "b-10.txt", "a.csv", "sub/c.txt"):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("text\ncat")

  def found(*patterns):
    names = caption_files.find([f"{tmp_path}/{p}" for p in patterns])
    return [name.removeprefix(f"{tmp_path}/") for name in names]

  assert found("b-*.txt") == ["b-0.txt", "b-1.txt", "b-10.txt"]
  assert found("b-1.txt", "a.csv") == ["b-1.txt", "a.csv"]
  assert found("b-{0..1}.t?t") == ["b-0.txt", "b-1.txt"]
  assert found("b-{10..10}.txt") == ["b-10.txt"]
  assert found("*/?.txt") == ["sub/c.txt"]
  (tmp_path / "[odd].txt").write_text("")
  assert found("[odd].txt") == ["[odd].txt"]


def test_files_that_are_not_there(tmp_path):
  (tmp_path / "a.png").write_text("")
  (tmp_path / "a.parquet.gz").write_text("")
  for pattern, message in {
    "none.txt": "there is no file .*none.txt; give .* or emoji",
    "*.csv": r"there is no file .*\*\.csv",
    "{00..99999999}.txt": "there is no file .*00.txt",
    "{3..1}.txt": "1}.txt' names no file",
    "**/*.txt": "has .., which is not read",
    "": "is a folder; name its files",
    "a.png": "none of the extensions .txt",
    "a.parquet.gz": "none of the extensions",
  }.items():
    with pytest.raises(errors.BadInput, match=message):
      caption_files.find([f"{tmp_path}/{pattern}"])


@pytest.mark.parametrize(
  "name", ["a.txt", "a.txt.gz", "a.csv", "a.jsonl", "a.tar", "a.parquet"]
)
def test_a_large_file_is_read_in_little_memory(tmp_path, name):
  texts = [f"{i} " + "cat " * 250 for i in range(5_000)]
  path = tmp_path / name.removesuffix(".gz")
  if name == "a.parquet":
    pyarrow = pytest.importorskip("pyarrow", reason="pip install pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet", reason="as above")
    table = pyarrow.table({"text": texts})
    parquet.write_table(table, path, row_group_size=200)
  else:
    write = {"txt": write_text, "csv": write_csv, "jsonl": write_json_lines}
    write.get(path.suffix[1:], write_shard)(path, texts)
  if name.endswith(".gz"):
    path = compressed(path)
  tracemalloc.start()
  total = sum(len(text) for text in caption_files.read(str(path)))
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert total == sum(map(len, texts)) > 5e6
  assert peak < 2e6
