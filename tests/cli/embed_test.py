"""`imagen embed` as a user runs it: stores, kills, estimates, bad input."""

import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from imagen_jax.cli import embed
from imagen_jax.core import errors
from imagen_jax.text import embedding, encoders, store

ROOT = pathlib.Path(__file__).parents[2]
T5 = ROOT / "tests" / "golden" / "t5"
ODD = ["", "a\0b", "\ud83d", "a " * 500_000, "a\r\nb", "שלום", "red " * 90]


@pytest.fixture(scope="module")
def t5_folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("encoders") / "tiny_t5"
  shutil.copytree(T5 / "text_encoder", folder)
  shutil.copy(T5 / "tokenizer" / "spiece.model", folder)
  return folder


def captions(count: int) -> list[str]:
  rng = random.Random(3)
  words = ["a", "red", "cat", "photo", "of", "two", "dogs", "in", "the", "sun"]
  return [
    " ".join(rng.choice(words) for _ in range(rng.randint(0, 12)))
    + f" {i % (count - 50)}"
    for i in range(count)
  ]


def write(path: pathlib.Path, lines: list[str]) -> pathlib.Path:
  path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
  return path


def contents(folder: pathlib.Path) -> dict[str, bytes]:
  return {
    path.relative_to(folder).as_posix(): path.read_bytes()
    for path in sorted(folder.rglob("*"))
    if path.is_file()
  }


def arguments(source, folder, out, *more: str) -> list[str]:
  return [
    f"--captions={source}", f"--encoder={folder}", "--max_length=64",
    f"--out={out}", "--shard_size=500", *more,
  ]  # fmt: skip


def test_a_store_holds_what_the_encoder_says(t5_folder, tmp_path, capsys):
  texts = captions(120)
  source = write(tmp_path / "captions.txt", texts)
  embed.run(arguments(source, t5_folder, tmp_path / "store"))
  said = capsys.readouterr().out
  assert "120 examples" in said and "--config.data.store=" in said
  encoder, params = encoders.load(t5_folder, 64)
  opened = store.EmbeddingStore(tmp_path / "store", expected=embed.identity(
    encoder
  ))  # fmt: skip
  assert len(opened) == 120
  expected = embedding.memo(encoder, params)(texts)
  found = opened.embed(texts)
  np.testing.assert_array_equal(found.text_mask, expected.text_mask)
  # The same bfloat16, but where the last bit of float32 tips the rounding.
  same = found.text_emb == expected.text_emb
  assert same.mean() > 0.99
  np.testing.assert_allclose(
    found.text_emb, expected.text_emb, rtol=2.0**-7, atol=1e-5
  )
  np.testing.assert_array_equal(
    opened[7], found.text_emb[7][found.text_mask[7]]
  )


def test_odd_captions_are_kept(t5_folder, tmp_path, capsys):
  source = tmp_path / "captions.jsonl"
  source.write_text("".join(json.dumps({"caption": c}) + "\n" for c in ODD))
  embed.run(arguments(source, t5_folder, tmp_path / "store"))
  assert "7 examples" in capsys.readouterr().out
  opened = store.EmbeddingStore(tmp_path / "store")
  assert len(opened.rows([""])[0]) == 1  # the end token
  assert opened.manifest.truncated == 1 + 1  # the two long ones
  assert all(np.isfinite(row).all() for row in opened.rows(ODD))


def test_hosts_share_the_work(t5_folder, tmp_path, capsys):
  source = write(tmp_path / "captions.txt", captions(1600))
  embed.run(arguments(source, t5_folder, tmp_path / "one"))
  for index in (2, 0, 1):
    host = (f"--host_index={index}", "--host_count=3")
    embed.run(arguments(source, t5_folder, tmp_path / "three", *host))
  said = capsys.readouterr().out
  assert "2 of 4 shards are missing" in said or "3 of 4 shards" in said
  assert contents(tmp_path / "three") == contents(tmp_path / "one")


def finished_shards(folder: pathlib.Path) -> int:
  return len(list(folder.glob("embeddings-*")))


@pytest.mark.slow
@pytest.mark.parametrize(
  "kills", [4, pytest.param(10, marks=pytest.mark.nightly)]
)
def test_killed_often_it_ends_with_the_same_bytes(t5_folder, tmp_path, kills):
  """The whole program, 20,000 captions, killed at random moments."""
  source = write(tmp_path / "captions.txt", captions(20_000))
  out, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"

  def start(folder: pathlib.Path) -> subprocess.Popen:
    return subprocess.Popen(
      [sys.executable, "-m", "imagen_jax", "embed",
       *arguments(source, t5_folder, folder)],
      cwd=ROOT, env=os.environ | {"XLA_FLAGS": ""},
      stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip

  assert start(undisturbed).wait() == 0
  rng = random.Random(0)
  done = [0]
  for _ in range(kills):
    process = start(out)
    if rng.random() < 0.8:  # else at any moment of the start
      goal = done[-1] + rng.randint(0, 3)
      while finished_shards(out) < goal and process.poll() is None:
        time.sleep(0.002)
      time.sleep(rng.uniform(0, 0.1))
    else:
      time.sleep(rng.uniform(0, 2))
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    done.append(finished_shards(out))
  assert done == sorted(done) and 0 < done[-1] < finished_shards(undisturbed)
  assert start(out).wait() == 0
  assert contents(out) == contents(undisturbed)


def test_a_dry_run_counts_and_writes_nothing(t5_folder, tmp_path, capsys):
  texts = [*captions(100), "red " * 90, "苹果"]
  source = write(tmp_path / "captions.txt", texts)
  out = tmp_path / "store"
  embed.run([*arguments(source, t5_folder, out), "--dry_run"])
  said = capsys.readouterr().out
  assert not out.exists()
  embed.run(arguments(source, t5_folder, out))
  manifest = store.EmbeddingStore(out).manifest
  assert f"{manifest.examples}, of which {manifest.captions} " in said
  assert f"{manifest.tokens:,}, " in said
  assert "truncated   1 at 64 tokens" in said
  assert "'red red red red red red red red red red '... loses 'red red" in said
  assert "unknown     1 hold words" in said
  assert "width 48, encoder tiny_t5" in said


def test_a_config_says_the_same_as_flags(t5_folder, tmp_path):
  source = write(tmp_path / "captions.txt", captions(100))
  embed.run(arguments(source, t5_folder, tmp_path / "flags"))
  embed.run([
    f"--config=configs/embed.py:{t5_folder}", f"--captions={source}",
    "--config.text.max_length=64", "--config.store.shard_size=500",
    f"--config.out={tmp_path / 'config'}",
  ])  # fmt: skip
  assert contents(tmp_path / "flags") == contents(tmp_path / "config")


def test_int8_takes_half_the_room(t5_folder, tmp_path):
  texts = captions(100)
  source = write(tmp_path / "captions.txt", texts)
  embed.run(arguments(source, t5_folder, tmp_path / "bf16"))
  embed.run(
    arguments(source, t5_folder, tmp_path / "int8", "--store_dtype=int8")
  )
  exact = store.EmbeddingStore(tmp_path / "bf16").embed(texts).text_emb
  near = store.EmbeddingStore(tmp_path / "int8").embed(texts).text_emb
  drift = np.sqrt(np.mean((near - exact) ** 2) / np.mean(exact**2))
  assert 1e-3 < drift < 0.02


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (["--captions=nowhere.txt"], r"nowhere\.txt"),
    (["--captions=captions.docx"], "docx"),
    (["--encoder=mimilm"], r"Did you mean 'minilm'"),
    (["--encoder=no/where"], "does not exist"),
    (["--clean=deepfloid"], "Did you mean 'deepfloyd'"),
    (["--precision=fp16"], r"fp16.*float32, bfloat16, int8"),
    (["--max_length=1"], r"1 is not in 2\.\."),
    (["--max_length=many"], "many"),
    (["--store_dtype=fp8"], r"fp8.*bfloat16"),
    (["--tensor_parallel=3"], "3 does not divide"),
    (["--host_index=1"], "go together"),
    (["--batch_size=0"], "at least 1"),
    (["--shard_size=0"], "at least 1"),
    (["--out=gs://bucket/store"], "not a local folder"),
  ],
)
def test_bad_arguments_are_one_line(
  t5_folder, tmp_path, monkeypatch, change, message
):
  monkeypatch.chdir(tmp_path)
  source = write(tmp_path / "captions.txt", captions(60))
  (tmp_path / "captions.docx").write_text("x")
  given = arguments(source, t5_folder, tmp_path / "store")
  flag = change[0].partition("=")[0] + "="
  kept = [a for a in given if not a.startswith(flag)]
  with pytest.raises(errors.BadInput, match=message):
    embed.run([*kept, *change])
  assert not (tmp_path / "store").exists()


def test_what_is_missing_is_named(tmp_path):
  with pytest.raises(errors.BadInput, match="--captions is missing"):
    embed.run([f"--out={tmp_path}"])
  source = write(tmp_path / "captions.txt", ["a"])
  with pytest.raises(errors.BadInput, match="--out is missing"):
    embed.run([f"--captions={source}"])


def test_another_encoder_does_not_go_on(t5_folder, tmp_path):
  source = write(tmp_path / "captions.txt", captions(60))
  out = tmp_path / "store"
  embed.run(arguments(source, t5_folder, out))
  before = contents(out)
  with pytest.raises(errors.BadInput, match="max_length: the store has 64"):
    embed.run([
      f"--captions={source}", f"--encoder={t5_folder}", f"--out={out}",
      "--max_length=32", "--shard_size=500",
    ])  # fmt: skip
  assert contents(out) == before


def test_help_teaches(capsys):
  with pytest.raises(SystemExit) as stop:
    embed.run(["--help"])
  assert stop.value.code == 0
  text = capsys.readouterr().out
  for line in embed._EXAMPLES:
    assert line in text
