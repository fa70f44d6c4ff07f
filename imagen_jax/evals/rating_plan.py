"""What human raters are shown: trials, control trials, and blind sides.

Two protocols, both of the paper:

  drawbench  Appendix C: all images of a prompt from set a beside those of set
             b; which set is of higher quality, and which represents the caption
             better; a, b or indifferent
  coco       Section 4.2: a generated image (a) beside the real one (b), which
             looks more real; and each alone, whether the caption describes it:
             yes, somewhat, no

A control trial has a known answer: one side is of another prompt, and coarse.
Each rater gets an own order and own sides, which the seed and the rater's
number decide; each set is on the left in half of the trials.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from imagen_jax.core import errors, files
from imagen_jax.evals import image_set

Protocol = Literal["drawbench", "coco"]
Side = Literal["a", "b"]

QUESTIONS = {
  "quality": "Which set of images is of higher quality?",
  "alignment": "Which set of images better represents the text caption?",
  "real": "Which image looks more like a real photograph?",
  "caption": "Does the caption accurately describe the image?",
}
_ASKED = {"pair": ("quality", "alignment"), "real": ("real",)}
_CHOICES = {
  "quality": ("left", "indifferent", "right"),
  "alignment": ("left", "indifferent", "right"),
  "real": ("left", "right"),
  "caption": ("yes", "somewhat", "no"),
}

# Prompts with one of these words show people; the rest are "no people".
_PEOPLE = frozenset([
  "adult", "adults", "boy", "boys", "child", "girl", "girls", "guy", "ladies",
  "lady", "man", "men", "people", "person", "player", "someone", "spectators",
  "toddler", "woman", "women", "workers",
])  # fmt: skip


class Shown(NamedTuple):
  """An image of one of the sets, perhaps made coarse for a control trial."""

  source: Side
  file: str
  coarse: bool = False


class Trial(NamedTuple):
  """What is on one page; `b` is empty where one image stands alone."""

  kind: Literal["pair", "real", "single"]
  prompt: str
  category: str
  a: tuple[Shown, ...]
  b: tuple[Shown, ...]
  expected: dict[str, list[str]]  # of a control trial: the right answers

  @property
  def questions(self) -> tuple[str, ...]:
    """The names of what is asked."""
    return _ASKED.get(self.kind, ("caption",))


class Plan(NamedTuple):
  """All trials of a study, and what they were made from."""

  protocol: Protocol
  names: tuple[str, str]  # what a report calls the sets
  seed: int
  digest: str  # of the images and all else; a study goes on only with the same
  trials: tuple[Trial, ...]


class Turn(NamedTuple):
  """One trial as one rater meets it."""

  trial: int
  left: Side


def choices(question: str) -> tuple[str, ...]:
  """The answers that a question takes."""
  return _CHOICES[question]


def make(
  a: image_set.ImageSet,
  b: image_set.ImageSet,
  *,
  protocol: Protocol,
  names: tuple[str, str] = ("A", "B"),
  seed: int = 0,
  samples: int = 8,
  control_every: int = 10,
  category: str | None = None,
  limit: int | None = None,
) -> Plan:
  """The trials of two sets; BadInput where they do not go together.

  `samples` bounds the images of a side (protocol drawbench); one control is
  added for every `control_every` trials, 0 for none; `limit` prompts are drawn.
  """
  image_set.check_same_prompts(a, b)
  draw = np.random.default_rng([seed, 1])
  chosen = _choose(a, category, limit, draw)
  one, two = a.by_prompt(), b.by_prompt()
  trials = []
  for text, group in chosen:
    n = min(samples, len(one[text]), len(two[text]))
    mine, theirs = _shown("a", one[text][:n]), _shown("b", two[text][:n])
    if protocol == "drawbench":
      trials.append(Trial("pair", text, group, mine, theirs, {}))
    else:
      group = group or _people(text)
      trials += [
        Trial("real", text, group, mine[:1], theirs[:1], {}),
        Trial("single", text, group, mine[:1], (), {}),
        Trial("single", text, group, theirs[:1], (), {}),
      ]
  trials += _controls(trials, control_every, draw)
  return Plan(
    protocol, names, seed, _digest((a, b), trials, seed), tuple(trials)
  )


def _choose(
  some: image_set.ImageSet,
  category: str | None,
  limit: int | None,
  draw: np.random.Generator,
) -> list[tuple[str, str]]:
  found = some.prompts
  if category is not None:
    known = sorted({prompt.category for prompt in found})
    found = [prompt for prompt in found if prompt.category == category]
    if not found:
      raise errors.BadInput(
        f"no prompt is of category {category!r}; the set has"
        f" {', '.join(filter(None, known)) or 'no categories'}."
      )
  if limit is not None and limit < len(found):
    kept = sorted(draw.permutation(len(found))[:limit].tolist())
    found = [found[k] for k in kept]
  return [(prompt.text, prompt.category) for prompt in found]


def _shown(
  source: Side, entries: Sequence[image_set.Entry]
) -> tuple[Shown, ...]:
  return tuple(Shown(source, entry.file) for entry in entries)


def _people(text: str) -> str:
  words = {word.strip(".,;:!?\"'()").lower() for word in text.split()}
  return "people" if words & _PEOPLE else "no people"


def _controls(
  trials: Sequence[Trial], every: int, draw: np.random.Generator
) -> list[Trial]:
  """Trials with a known answer, each made from two of the others."""
  if every < 1 or len({trial.prompt for trial in trials}) < 2:
    return []
  order = draw.permutation(len(trials)).tolist()
  return [
    _control(trials[k], trials, number)
    for number, k in enumerate(order[: len(trials) // every])
  ]


def _control(trial: Trial, trials: Sequence[Trial], number: int) -> Trial:
  other = _least_alike(trial, trials)
  if trial.kind == "single":
    if number % 2:  # the caption of this image: anything but "no"
      expected = {"caption": ["yes", "somewhat"]}
      return trial._replace(expected=expected, a=_real(trial, trials))
    return trial._replace(expected={"caption": ["no"]}, a=_real(other, trials))
  good = trial.b if trial.kind == "real" or number % 2 else trial.a
  bad = tuple(shown._replace(coarse=True) for shown in other.a)
  questions = {name: ["a"] for name in trial.questions}
  return trial._replace(a=good, b=bad, expected=questions)


def _least_alike(trial: Trial, trials: Sequence[Trial]) -> Trial:
  """A trial of that kind whose prompt shares the fewest words."""
  words = set(trial.prompt.lower().split())
  return min(
    (t for t in trials if t.kind == trial.kind and t.prompt != trial.prompt),
    key=lambda t: len(words & set(t.prompt.lower().split())),
  )


def _real(trial: Trial, trials: Sequence[Trial]) -> tuple[Shown, ...]:
  """The real image of a trial's prompt."""
  (pair,) = (t for t in trials if t.kind == "real" and t.prompt == trial.prompt)
  return pair.b


def schedule(plan: Plan, rater: int) -> list[Turn]:
  """The trials in a rater's own order, with the set that is on the left."""
  draw = np.random.default_rng([plan.seed, 2, rater])
  n = len(plan.trials)
  lefts = draw.permutation(["a", "b"] * (-(-n // 2)))[:n]
  return [
    Turn(trial, left)
    for trial, left in zip(
      draw.permutation(n).tolist(), lefts.tolist(), strict=True
    )
  ]


def meaning(turn: Turn, choice: str) -> str:
  """What was chosen, whatever side it was on: "left" becomes "a" or "b"."""
  other = {"a": "b", "b": "a"}[turn.left]
  return {"left": turn.left, "right": other}.get(choice, choice)


def _digest(
  sets: Sequence[image_set.ImageSet], trials: Sequence[Trial], seed: int
) -> str:
  """Of all that raters see, the pixels included."""
  digest = hashlib.sha256(json.dumps([seed, trials]).encode())
  for source, some in zip("ab", sets, strict=True):
    used = {
      shown.file
      for trial in trials
      for shown in (*trial.a, *trial.b)
      if shown.source == source
    }
    names = sorted(used)
    digest.update(files.sha256_files(some.folder / n for n in names).encode())
  return digest.hexdigest()


def to_json(plan: Plan) -> files.Json:
  """What `from_json` reads."""
  return json.loads(json.dumps(plan._asdict()))


def from_json(value: files.Json) -> Plan:
  """The plan of a study on disk."""
  trials = []
  for kind, prompt, category, a, b, expected in value["trials"]:
    sides = (tuple(Shown(*shown) for shown in side) for side in (a, b))
    trials.append(Trial(kind, prompt, category, *sides, expected))
  return Plan(
    value["protocol"],
    tuple(value["names"]),
    value["seed"],
    value["digest"],
    tuple(trials),
  )
