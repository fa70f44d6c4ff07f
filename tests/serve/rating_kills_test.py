"""Servers are killed with SIGKILL at any moment, and no answer is lost.

Four raters post answers over HTTP as fast as they can, and one page in five a
second time. What got a redirect must be in the file, as it was given, after the
last of the kills, and nothing else.
"""

import http.client
import os
import pathlib
import random
import signal
import subprocess
import sys
import threading
import time
import urllib.parse

import pytest

from imagen_jax.evals import rating_plan, rating_store

SERVER = pathlib.Path(__file__).parent / "rating_server.py"
RATERS, TRIALS = 4, 4000  # more than are answered meanwhile


class Rater(threading.Thread):
  """Posts each trial until it is acknowledged, whatever dies meanwhile."""

  def __init__(self, number: int, token: str, where: list[int]):
    super().__init__(daemon=True)
    self.number, self.token = number, token
    self.stop = threading.Event()
    self.where = where  # one port, which changes
    self.acknowledged: dict[int, dict] = {}
    self.lost = 0  # requests whose answer never came
    self.wrong: list[int] = []  # statuses that should not be

  def run(self):
    draw = random.Random(self.number)
    for trial in range(TRIALS):
      if self.stop.is_set():
        return
      choices = {
        name: draw.choice(["left", "indifferent", "right"])
        for name in ("quality", "alignment")
      }
      again = draw.random() < 0.2
      for _ in range(1 + again):
        while (status := self.post(trial, choices)) is None:
          self.lost += 1
          time.sleep(0.02)
        if status != 303:
          self.wrong.append(status)
      self.acknowledged[trial] = choices

  def post(self, trial: int, choices: dict) -> int | None:
    try:
      connection = http.client.HTTPConnection("127.0.0.1", self.where[0], 10)
      connection.request(
        "POST",
        f"/r/{self.token}/t/{trial}",
        urllib.parse.urlencode(choices),
        {"Content-Type": "application/x-www-form-urlencoded"},
      )
      return connection.getresponse().status
    except (OSError, http.client.HTTPException):
      return None
    finally:
      connection.close()


def check_kills(tmp_path, kills: int, seconds: float) -> None:
  sides = [(rating_plan.Shown(source, "1.png"),) for source in "ab"]
  trials = (rating_plan.Trial("pair", "owl", "", *sides, {}),) * TRIALS
  plan = rating_plan.Plan("drawbench", ("A", "B"), 0, "", trials)
  path = tmp_path / "r.sqlite"
  store = rating_store.create(path, plan, raters=RATERS)
  tokens = store.tokens()
  store.close()
  factory = subprocess.Popen(
    [sys.executable, str(SERVER), str(path), "a", "b"],
    stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    env=os.environ | {"PYTHONPATH": str(SERVER.parent.parent.parent)},
  )  # fmt: skip
  where, draw = [0], random.Random(0)

  def start() -> int:
    factory.stdin.write("\n")
    factory.stdin.flush()
    process, port = map(int, factory.stdout.readline().split())
    where[0] = port
    return process

  raters = [Rater(k, token, where) for k, token in tokens.items()]
  process = start()
  for rater in raters:
    rater.start()
  busy = 0
  for _ in range(kills):
    time.sleep(draw.uniform(0, seconds))
    busy += any(rater.is_alive() for rater in raters)
    os.kill(process, signal.SIGKILL)
    known = [(r.number, dict(r.acknowledged)) for r in raters]
    with_all(path, known)
    process = start()
  for rater in raters:
    rater.stop.set()
  for rater in raters:
    rater.join(60)
  os.kill(process, signal.SIGKILL)
  factory.stdin.close()
  factory.wait(10)
  factory.stdout.close()
  assert busy == kills, "the answers ran out before the kills"
  assert sum(rater.lost for rater in raters) >= kills  # they did hit
  assert [rater.wrong for rater in raters] == [[]] * RATERS
  answers = with_all(path, [(r.number, r.acknowledged) for r in raters])
  assert len(answers) == sum(len(rater.acknowledged) for rater in raters)


def with_all(path, known) -> list:
  """The answers in the file, which must hold those that are known."""
  opened = rating_store.open_study(path)
  answers = opened.answers()
  opened.close()
  kept = {(a.rater, a.trial): a.choices for a in answers}
  assert len(kept) == len(answers)
  for number, acknowledged in known:
    for trial, choices in acknowledged.items():
      assert kept[number, trial] == choices
  return answers


def test_five_kills_lose_no_acknowledged_answer(tmp_path):
  check_kills(tmp_path, kills=5, seconds=0.2)


@pytest.mark.nightly
def test_fifty_kills_lose_no_acknowledged_answer(tmp_path):
  check_kills(tmp_path, kills=50, seconds=0.4)
