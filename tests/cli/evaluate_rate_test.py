"""`imagen evaluate rate`: what it refuses, and the report of a study.

Serving is in tests/serve/rating_browser_test.py.
"""

import socket

import pytest

from imagen_jax.cli import evaluate_rate, main
from imagen_jax.evals import image_set, rating_plan, rating_store
from tests.evals import rating_sets


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
  return rating_sets.pair(tmp_path_factory.mktemp("sets"))


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    ([], "two sets are rated"),
    (["--a=A"], "two sets are rated"),
    (["--a=A", "--b=none"], "is no folder"),
    (["--a=A", "--b=OTHER"], "different prompts"),
    (["--a=A", "--b=A"], "hold the same images"),
    (["--a=A", "--b=B", "--raters=0"], "--raters=0"),
    (["--a=A", "--b=B", "--port=99999"], "--port=99999"),
    (["--a=A", "--b=B", "--port=BUSY"], "cannot listen"),
    (["--a=A", "--b=B", "--category=Reddit"], "no prompt is of category"),
    (["--a=A", "--b=B", "--min_control=2"], "from 0 to 1"),
    (["--report"], "is not there"),
    (["--protocol=parti"], "invalid choice"),
  ],
)
def test_refused_in_one_line_with_code_2(
  sets, tmp_path, flags, message, capsys
):
  names = {"=A": f"={sets[0].folder}", "=B": f"={sets[1].folder}"}
  names["=OTHER"] = f"={rating_sets.write(tmp_path / 'other', n=2)}"
  with socket.create_server(("127.0.0.1", 0)) as busy:
    names["=BUSY"] = f"={busy.getsockname()[1]}"
    given = []
    for flag in flags:
      name, equal, value = flag.partition("=")
      given.append(name + names.get(equal + value, equal + value))
    code = main.main(["evaluate", "rate", f"--out={tmp_path}", *given])
  said = capsys.readouterr().err.strip().splitlines()
  assert code == 2
  assert message in said[-1]
  assert said[-1].startswith("imagen evaluate: ")


def test_a_report_of_what_is_there(sets, tmp_path, capsys):
  plan = rating_plan.make(*sets, protocol="drawbench", names=("new", "old"))
  store = rating_store.create(tmp_path / rating_store.FILE, plan, raters=2)
  for turn in rating_plan.schedule(plan, 1):
    liked = "left" if turn.left == "a" else "right"
    choices = {"quality": liked, "alignment": "indifferent"}
    store.answer(1, turn.trial, choices)
  evaluate_rate.main(["--report", f"--out={tmp_path}"])
  said = capsys.readouterr().out
  assert "quality: new is preferred; the share of new is 100.0 %" in said
  assert "alignment: No preference is shown" in said
  assert "4 pages answered" in said
  assert (tmp_path / "report.html").exists()
  store.close()


def test_a_set_that_is_named_twice_keeps_two_names(sets, tmp_path):
  parser = evaluate_rate._parser()
  args = parser.parse_args(["--a=x/samples", "--b=y/samples", "--out=o"])
  assert evaluate_rate._names(args) == ("samples (a)", "samples (b)")
  assert image_set.MANIFEST == "manifest.json"  # the help names it
  assert "manifest.json" in parser.format_help()
