"""Two raters in headless Chromium, against `imagen evaluate rate` itself.

One uses the keyboard, closes the browser midway and goes on; one clicks on a
phone, sends an answer twice and tries to change it. Which set was on the left
is read off the pixels, so the counts of the report are checked from outside.
"""

import collections
import contextlib
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest

from imagen_jax.evals import rating_store
from tests import house_rules
from tests.evals import rating_sets

sync_api = pytest.importorskip(
  "playwright.sync_api", reason="needs playwright, of the extra dev"
)
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
  pytest.mark.browser,
  pytest.mark.skipif(
    CHROMIUM is None, reason="needs Chromium: apt-get install chromium"
  ),
]

PROMPTS, CONTROLS = 20, 2
PAGES = PROMPTS + CONTROLS
ANSWERS = ("left", "indifferent", "right")
PHONE = {
  "viewport": {"width": 390, "height": 844},
  "is_mobile": True,
  "has_touch": True,
}


@contextlib.contextmanager
def serving(out, *flags):
  """The command on a free port; its links, one a rater. Ctrl-C at the end."""
  process = subprocess.Popen(
    [sys.executable, "-m", "imagen_jax", "evaluate", "rate", f"--out={out}",
     "--port=0", *flags],
    stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    env=os.environ | {"PYTHONPATH": str(house_rules.ROOT)},
  )  # fmt: skip
  links = []
  while len(links) < 2:
    line = process.stdout.readline()
    assert line, "the command ended without links"
    links += re.findall(r"http://\S+", line)
  try:
    yield links
  finally:
    process.send_signal(signal.SIGINT)
    rest = process.communicate(timeout=60)[0]
    assert process.returncode == 0, rest


class Rater:
  """What one person does, and a note of each answer."""

  def __init__(self, link: str, number: int):
    self.link, self.draw = link, random.Random(number)
    self.said: dict[int, dict[str, str]] = {}  # by trial: a, b, indifferent

  def open(self, browser, **options):
    page = browser.new_context(**options).new_page()
    self.problems = []
    page.on("console", lambda m: self.problems.append(m.text))
    page.on("pageerror", lambda e: self.problems.append(str(e)))
    page.goto(self.link)
    return page

  def look(self, page) -> tuple[int, dict[str, str]]:
    """The trial on the page, and which set stands where."""
    action = page.locator("form").get_attribute("action")
    image = page.locator(".set img").first.get_attribute("src")
    data = page.request.get(self.link.partition("/r/")[0] + image).body()
    with PIL.Image.open(io.BytesIO(data), formats=("PNG",)) as opened:
      shade = np.asarray(opened)[..., 0].mean()
    left, right = ("a", "b") if shade < 125 else ("b", "a")
    meaning = {"left": left, "right": right, "indifferent": "indifferent"}
    return int(action.rpartition("/")[2]), meaning

  def choose(self, page) -> list[str]:
    """Two answers, noted by what they mean."""
    trial, meaning = self.look(page)
    chosen = [self.draw.choice(ANSWERS) for _ in range(2)]
    self.said[trial] = {
      name: meaning[answer]
      for name, answer in zip(("quality", "alignment"), chosen, strict=True)
    }
    return chosen

  def by_keys(self, page, pages: int) -> None:
    for _ in range(pages):
      keys = [str(1 + ANSWERS.index(answer)) for answer in self.choose(page)]
      page.keyboard.press("1" if keys[0] != "1" else "2")  # a slip,
      page.keyboard.press("Backspace")  # mended before it is sent
      for key in keys:
        page.keyboard.press(key)
      with page.expect_navigation():
        page.keyboard.press("Enter")

  def by_taps(self, page, pages: int) -> None:
    for _ in range(pages):
      chosen = self.choose(page)
      for name, answer in zip(("quality", "alignment"), chosen, strict=True):
        page.locator(f"input[name={name}][value={answer}] + span").tap()
      with page.expect_navigation():
        page.locator("button[type=submit]").tap()


def test_two_raters_and_their_counts(tmp_path):
  for name, shade in (("a", 50), ("b", 200)):
    rating_sets.write(tmp_path / name, PROMPTS, 8, shade)
  out = tmp_path / "out"
  flags = [f"--a={tmp_path / 'a'}", f"--b={tmp_path / 'b'}", "--name_a=New"]
  with serving(out, *flags) as links, sync_api.sync_playwright() as play:
    one, two = (Rater(link, k) for k, link in enumerate(links, 1))
    browser = play.chromium.launch(
      executable_path=CHROMIUM, args=["--no-sandbox"]
    )
    page = one.open(browser)
    one.by_keys(page, 9)
    page.keyboard.press("1")  # chosen, and never sent
    browser.close()
    browser = play.chromium.launch(
      executable_path=CHROMIUM, args=["--no-sandbox"]
    )
    page = one.open(browser)
    assert "Page 10 of 22" in page.locator("header").inner_text()
    one.by_keys(page, PAGES - 9)
    assert "All done" in page.locator("h1").inner_text()
    page = two.open(browser, **PHONE)
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= PHONE["viewport"]["width"]  # nothing sticks out
    two.by_taps(page, PAGES)
    sent = rating_store.open_study(out / rating_store.FILE)
    last = sent.answers()[-1]
    where = f"{two.link}/t/{last.trial}"
    other = last.choices | {"quality": "indifferent", "alignment": "left"}
    other |= {} if other != last.choices else {"quality": "right"}
    codes = [
      page.request.post(where, form=form, max_redirects=0).status
      for form in (last.choices, other)
    ]
    assert codes == [303, 409]
    controls = {k for k, t in enumerate(sent.plan.trials) if t.expected}
    assert len(sent.answers()) == 2 * PAGES
    sent.close()
    assert (one.problems, two.problems) == ([], [])
    browser.close()
  report = json.loads((out / "report.json").read_text())
  assert [row["answered"] for row in report["raters"]] == [PAGES, PAGES]
  names = {"a": "New", "b": "b", "indifferent": "indifferent"}
  for question in ("quality", "alignment"):
    counts = collections.Counter(
      names[choices[question]]
      for rater in (one, two)
      for trial, choices in rater.said.items()
      if trial not in controls
    )
    row = report["measures"][question]["rows"][0]
    assert row["answers"] == sum(counts.values()) == 2 * PROMPTS
    for name, share in row["shares"].items():
      assert share * 2 * PROMPTS == pytest.approx(counts[name])
