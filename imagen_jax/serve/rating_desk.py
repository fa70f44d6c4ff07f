"""A study as its raters meet it: what is next, and which image is which.

Nothing that a browser gets says which set an image is from: its name is a keyed
hash, another on each page and for each rater, and its file holds pixels alone.
"""

import functools
import hashlib
import hmac
import io
import json
import pathlib
from collections.abc import Callable, Mapping

import numpy as np
import PIL.Image
from jaxtyping import UInt8

from imagen_jax.core import images
from imagen_jax.evals import rating_plan, rating_store

_COARSE = 8  # times fewer pixels a side, in a control trial
_LABELS = {
  "pair": {"left": "Set 1", "right": "Set 2", "indifferent": "Indifferent"},
  "real": {"left": "Image 1", "right": "Image 2"},
  "single": {"yes": "Yes", "somewhat": "Somewhat", "no": "No"},
}

Progress = Callable[[int, int], None]  # answers kept, of how many


class Desk:
  """A study as its raters meet it: what is next, and which image is which."""

  def __init__(
    self,
    store: rating_store.Store,
    folders: Mapping[str, pathlib.Path],
    progress: Progress | None = None,
  ):
    self.store = store
    self._folders = dict(folders)
    self._progress = progress
    plan = store.plan
    self._turns = {
      rater: rating_plan.schedule(plan, rater) for rater in store.tokens()
    }
    self._images = {rater: self._named(rater) for rater in self._turns}
    self._kept = len(store.answers())
    self.picture = functools.lru_cache(maxsize=64)(self._picture)

  def next(self, rater: int) -> tuple[int, rating_plan.Turn | None]:
    """How many trials are answered, and the first that is not."""
    done = self.store.answered(rater)
    left = [turn for turn in self._turns[rater] if turn.trial not in done]
    return len(done), left[0] if left else None

  def answer(
    self, rater: int, trial: int, choices: Mapping[str, str]
  ) -> rating_store.Outcome:
    """Keeps an answer; see `rating_store.Store.answer`."""
    outcome = self.store.answer(rater, trial, choices)
    if outcome == "kept":
      self._kept += 1
      if self._progress is not None:
        total = len(self.store.plan.trials) * len(self._turns)
        self._progress(self._kept, total)
    return outcome

  def page(self, rater: int, token: str, turn: rating_plan.Turn) -> dict:
    """What the template shows of a trial."""
    trial = self.store.plan.trials[turn.trial]
    sides = (trial.a, trial.b) if turn.left == "a" else (trial.b, trial.a)
    sides = (trial.a, ()) if trial.kind == "single" else sides
    labels = _LABELS[trial.kind]
    left, right = (
      [f"/r/{token}/i/{self._name(rater, turn.trial, s)}" for s in side]
      for side in sides
    )
    return {
      "kind": trial.kind,
      "caption": trial.prompt or "(no text)",
      "left": left,
      "right": right,
      "left_name": labels.get("left", ""),
      "right_name": labels.get("right", ""),
      "action": f"/r/{token}/t/{turn.trial}",
      "total": len(self.store.plan.trials),
      "questions": [
        {
          "name": name,
          "text": rating_plan.QUESTIONS[name],
          "answers": [
            {"value": value, "text": labels[value]}
            for value in rating_plan.choices(name)
          ],
        }
        for name in trial.questions
      ],
    }

  def shown(self, rater: int, name: str) -> rating_plan.Shown | None:
    """The image that a rater's page names so."""
    return self._images[rater].get(name)

  def _name(self, rater: int, trial: int, shown: rating_plan.Shown) -> str:
    """Says nothing without the secret, and is another on each page."""
    text = json.dumps([rater, trial, *shown])
    key = self.store.secret.encode()
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()[:32]

  def _named(self, rater: int) -> dict[str, rating_plan.Shown]:
    return {
      self._name(rater, k, shown): shown
      for k, trial in enumerate(self.store.plan.trials)
      for shown in (*trial.a, *trial.b)
    }

  def _picture(self, shown: rating_plan.Shown) -> bytes:
    """A PNG of the pixels, and of nothing else that the file says."""
    pixels, _ = images.read_png(self._folders[shown.source] / shown.file)
    image = PIL.Image.fromarray(coarsen(pixels) if shown.coarse else pixels)
    buffer = io.BytesIO()
    image.save(buffer, "png", compress_level=1)
    return buffer.getvalue()


def coarsen(
  pixels: UInt8[np.ndarray, "h w 3"],
) -> UInt8[np.ndarray, "h w 3"]:
  """An image in blocks, an eighth of its pixels a side: plainly worse."""
  height, width = pixels.shape[:2]
  small = (max(1, width // _COARSE), max(1, height // _COARSE))
  image = PIL.Image.fromarray(pixels).resize(small, PIL.Image.Resampling.BOX)
  large = image.resize((width, height), PIL.Image.Resampling.NEAREST)
  return np.asarray(large)
