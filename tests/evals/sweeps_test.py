"""A sweep goes on where it stopped, alone or as several processes."""

import json

import pytest

from imagen_jax.core import errors
from imagen_jax.evals import bootstrap, sweeps

POINTS = sweeps.grid({"threshold": ("none", "static"), "steps": (4, 8, 16)})
SAME = {"weights": "abc"}


class Counted:
  """Measures a point as its steps, and counts; stops when told to."""

  def __init__(self, stop_after: int = 99):
    self.seen, self.stop_after = [], stop_after

  def __call__(self, point):
    if len(self.seen) == self.stop_after:
      raise KeyboardInterrupt
    self.seen.append(point)
    return {"steps": bootstrap.Interval(float(point["steps"]), 0.0, 1.0)}


def test_a_grid_has_every_combination_once():
  assert len(POINTS) == 6
  assert POINTS[1] == {"threshold": "none", "steps": 8}
  assert len({json.dumps(point) for point in POINTS}) == 6
  with pytest.raises(errors.BadInput, match=r"steps are \[4, 4\]"):
    sweeps.grid({"steps": (4, 4)})
  with pytest.raises(errors.BadInput, match="one at least"):
    sweeps.grid({"steps": ()})


def test_a_stopped_sweep_measures_only_what_is_left(tmp_path):
  first = Counted(stop_after=2)
  with pytest.raises(KeyboardInterrupt):
    sweeps.run(POINTS, first, tmp_path, identity=SAME)
  second, heard = Counted(), []
  rows = sweeps.run(
    POINTS,
    second,
    tmp_path,
    identity=SAME,
    progress=lambda done, total: heard.append((done, total)),
  )
  assert first.seen + second.seen == POINTS
  assert [row.point for row in rows] == POINTS
  assert rows[2].scores["steps"] == (16.0, 0.0, 1.0)
  assert heard == [(n, 6) for n in range(2, 7)]
  lines = (tmp_path / sweeps.RESULTS).read_text().splitlines()
  assert [json.loads(line)["point"] for line in lines] == POINTS


def test_half_a_line_of_a_killed_process_is_measured_again(tmp_path):
  sweeps.run(POINTS[:2], Counted(), tmp_path, identity=SAME)
  (part,) = (tmp_path / "parts").iterdir()
  part.write_bytes(part.read_bytes()[:-9])
  again = Counted()
  rows = sweeps.run(POINTS[:2], again, tmp_path, identity=SAME)
  assert again.seen == POINTS[1:2] and len(rows) == 2


def test_shards_share_the_grid_and_are_merged(tmp_path):
  counted = [Counted(), Counted()]
  for i in range(2):
    rows = sweeps.run(
      POINTS,
      counted[i],
      tmp_path,
      identity=SAME,
      shard=sweeps.parse_shard(f"{i}/2"),
    )
  assert counted[0].seen == POINTS[0::2] and counted[1].seen == POINTS[1::2]
  assert [row.point for row in rows] == POINTS
  assert len(list((tmp_path / "parts").iterdir())) == 2


def test_numbers_of_another_sweep_are_not_mixed_in(tmp_path):
  sweeps.run(POINTS[:1], Counted(), tmp_path, identity=SAME)
  with pytest.raises(errors.BadInput, match=r"other weights.*another --out"):
    sweeps.run(POINTS, Counted(), tmp_path, identity={"weights": "abd"})


@pytest.mark.parametrize("text", ["2/2", "1", "-1/2", "a/b", "0/0", ""])
def test_a_wrong_shard_says_what_is_expected(text):
  with pytest.raises(errors.BadInput, match="I/N"):
    sweeps.parse_shard(text)
