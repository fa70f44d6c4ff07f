"""`imagen data` as a user runs it: build, stats, verify; kills; bad input."""

import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import PIL.Image
import pytest

from imagen_jax.cli import data
from imagen_jax.core import errors, images
from imagen_jax.data import array_record_source, examples
from tests import image_files

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
  return image_files.write_folder(tmp_path_factory.mktemp("in") / "pets", 20)


@pytest.fixture(scope="module")
def built(pets, tmp_path_factory):
  out = tmp_path_factory.mktemp("out") / "set"
  data.run(["build", f"--images={pets}", f"--out={out}", "--shard_size=8"])
  return out


def test_build_stats_and_verify(pets, built, tmp_path, capsys):
  source = examples.open_set(built, checked=True)
  assert [shard.records for shard in source.manifest.shards] == [8, 8, 4]
  assert source[3].caption == "picture number 4"
  assert source[3].image == (pets / "004.jpg").read_bytes()
  sheet = tmp_path / "sheet.png"
  data.run(["stats", str(built), f"--sheet={sheet}", "--shown=6"])
  said = capsys.readouterr().out
  for text in ("20, ", "64..127: 20", "95 % 3", "0 images", "colours     mean"):
    assert text in said
  pixels, text = images.read_png(sheet)
  assert pixels.shape[0] > 160 and "imagen_jax" in text["Software"]
  data.run(["verify", str(built), "--decode"])
  assert "20 examples in 3 shard(s) are as they were" in capsys.readouterr().out


def test_stats_puts_its_sheet_into_the_set_or_nowhere(built, tmp_path, capsys):
  folder = tmp_path / "set"
  shutil.copytree(built, folder)
  data.run(["stats", str(folder), "--sheet="])
  assert "sheet" not in capsys.readouterr().out
  data.run(["stats", str(folder)])
  PIL.Image.open(folder / "contact_sheet.png").verify()
  data.run(["verify", str(folder)])  # which does not mind it
  with pytest.raises(errors.BadInput, match="give another --sheet"):
    data.run(["stats", str(folder), "--sheet=/proc/x/sheet.png"])


def test_verify_names_what_is_wrong(built, tmp_path, capsys):
  folder = tmp_path / "set"
  shutil.copytree(built, folder)
  shard = sorted(folder.glob("*.array_record"))[1]
  content = bytearray(shard.read_bytes())
  image = examples.open_set(folder)[9].image
  content[content.index(image) + 700] ^= 1
  shard.write_bytes(content)
  capsys.readouterr()
  with pytest.raises(errors.DataError, match="2 faults in a set of 20") as stop:
    data.run(["verify", str(folder)])
  assert stop.value.exit_code == 4
  said = capsys.readouterr().out
  assert f"{shard.name}' is damaged: SHA-256" in said and "record 9: " in said
  shard.unlink()
  with pytest.raises(errors.DataError, match="9 faults"):
    data.run(["verify", str(folder)])


def test_captions_of_a_table_and_a_dry_run(pets, tmp_path, capsys):
  table = tmp_path / "captions.csv"
  rows = [f"{i:03d}.jpg,a pet of number {i}" for i in range(19)]
  table.write_text("\n".join(["file_name,text", *rows]))
  given = [f"--images={pets}", f"--captions={table}", "--resize=64"]
  data.run(["build", *given, "--dry_run"])
  said = capsys.readouterr().out
  assert "20, of which 19 kept, 1 skipped (1 no caption)" in said
  assert "5.00% are bad, above --max_bad=0.001: a build would stop" in said
  with pytest.raises(errors.DataError, match="1 no caption"):
    data.run(["build", *given, f"--out={tmp_path / 'set'}"])
  data.run(["build", *given, f"--out={tmp_path / 'set'}", "--max_bad=0.05"])
  source = examples.open_set(tmp_path / "set")
  assert len(source) == 19 and source[0].extra["height"] == 64
  skipped = (tmp_path / "set" / "skipped.jsonl").read_text()
  assert json.loads(skipped)["key"] == "019.jpg"
  assert "written     1 shard(s)" in capsys.readouterr().out


def test_archives_and_tables_become_the_same_examples(tmp_path):
  members = {}
  for i in range(6):
    members |= {f"{i}.jpg": image_files.file(i), f"{i}.txt": b"text %d" % i}
  image_files.write_tar(tmp_path / "tars" / "00.tar", members)
  sources = [f"--images={tmp_path / 'tars' / '*.tar'}"]
  try:
    import pyarrow
    from pyarrow import parquet

    rows = [{"bytes": image_files.file(i), "path": None} for i in range(6)]
    texts = [f"text {i}" for i in range(6)]
    table = pyarrow.table({"image": rows, "text": texts})
    parquet.write_table(table, tmp_path / "a.parquet")
    sources.append(f"--images={tmp_path / 'a.parquet'}")
  except ImportError:
    pass
  found = []
  for i, source in enumerate(sources):
    data.run(["build", source, f"--out={tmp_path / str(i)}", "--name=same"])
    rows = examples.open_set(tmp_path / str(i)).read_all()
    found.append([(row.caption, row.image) for row in rows])
  expected = [(f"text {i}", image_files.file(i)) for i in range(6)]
  assert found == [expected] * len(sources)


def _start(pets, out):
  code = "import sys; from imagen_jax.cli import data; data.run(sys.argv[1:])"
  return subprocess.Popen(
    [sys.executable, "-c", code, "build", f"--images={pets}", f"--out={out}",
     "--shard_size=20", "--resize=64"],
    cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
  )  # fmt: skip


@pytest.mark.slow
def test_a_killed_build_never_opens_and_ends_with_the_same_bytes(tmp_path):
  pets = image_files.write_folder(tmp_path / "pets", 400)
  whole, out = tmp_path / "whole", tmp_path / "killed"
  started = time.monotonic()
  assert _start(pets, whole).wait() == 0
  seconds = time.monotonic() - started
  rng = random.Random(4)
  killed = 0
  for _ in range(8):
    process = _start(pets, out)
    shards = rng.randrange(20)
    while process.poll() is None and time.monotonic() - started < 60:
      done = len(list(out.glob(".building/*"))) - 2  # the list and the lock
      if done >= shards:
        break
      time.sleep(0.002)
    time.sleep(rng.uniform(0, 0.02))
    process.send_signal(signal.SIGKILL)
    killed += process.wait() == -signal.SIGKILL
    if (out / array_record_source.MANIFEST).exists():  # it had just ended
      assert image_files.contents(out) == image_files.contents(whole)
      shutil.rmtree(out)
      continue
    with pytest.raises(errors.BadInput, match="no manifest"):
      examples.open_set(out)
  assert killed >= 5, f"an unbroken build takes {seconds:.1f} s"
  assert _start(pets, out).wait() == 0
  assert image_files.contents(out) == image_files.contents(whole)


@pytest.mark.parametrize(
  ("given", "message"),
  [
    ([], "--images"),
    (["--images=PETS"], "--out is missing; give a folder for the set"),
    (["--images=nowhere", "--out=x"], "there is no file nowhere"),
    (
      ["--images=PETS", "--out=x", "--resize=0"],
      "0 is given; it is at least 1",
    ),
    (["--images=PETS", "--out=x", "--max_bad=2"], "2 is given; it is in 0..1"),
    (["--images=PETS", "--out=x", "--min_size=a"], "min_size.*'a'"),
    (["--images=PETS", "--out=x", "--max_pixels=64000000"], "needs --resize"),
    (["--images=PETS", "--out=x", "--resise=9"], "did you mean '--resize'"),
    (["--images=PETS", "--out=x", "--captions=no.csv"], r"no file no\.csv"),
    (["--images=PETS", "--out=gs://b/x"], "not a local folder"),
    (["--images=PETS", "--out=/proc/x"], "cannot write in '/proc/x'"),
  ],
)
def test_bad_arguments_are_one_line(
  pets, tmp_path, monkeypatch, given, message
):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(errors.BadInput, match=message) as caught:
    data.run(["build", *(g.replace("PETS", str(pets)) for g in given)])
  assert "\n" not in str(caught.value)
  assert os.listdir(tmp_path) == []


def test_help_and_unknown_verbs(capsys):
  for argv in ([], ["--help"]):
    data.run(argv)
    said = capsys.readouterr().out
    assert all(verb in said for verb in data.VERBS)
  for verb in data.VERBS:
    with pytest.raises(SystemExit) as stop:
      data.run([verb, "--help"])
    assert stop.value.code == 0
    assert f"imagen data {verb} " in capsys.readouterr().out
  with pytest.raises(errors.BadInput, match="did you mean 'verify'"):
    data.run(["verifi", "x"])
  with pytest.raises(errors.BadInput, match="no manifest"):
    data.run(["stats", "nowhere"])
