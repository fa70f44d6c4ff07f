"""What raters said, by question and category: tallies, intervals, agreement.

  quality, alignment  preference for a: a counts 1, indifferent 1/2, b 0
  real                share of answers that took the generated image (a) for the
                      real one; 50 % is as good as real
  caption             yes 1, somewhat 1/2, no 0, for each set by itself

Control trials are in no rate. Raters who miss more of them than `min_control`
allows are left out, in protocol coco by the paper's 80 %; in drawbench the
paper leaves out none (Appendix C).
"""

import collections
from collections.abc import Sequence
from typing import NamedTuple

from imagen_jax.core import files
from imagen_jax.evals import (
  interval_plot,
  rating_plan,
  rating_stats,
  rating_store,
)

MIN_CONTROL = {"drawbench": 0.0, "coco": 0.8}
ALL = "all"
_VALUES = {
  "a": 1.0, "b": 0.0, "indifferent": 0.5,
  "yes": 1.0, "somewhat": 0.5, "no": 0.0,
}  # fmt: skip


class Said(NamedTuple):
  """One answer to one question, with the sides undone."""

  rater: int
  trial: int
  question: str
  left: str
  choice: str
  meaning: str  # a, b, indifferent; yes, somewhat, no
  at: float


class RaterRow(NamedTuple):
  """How one rater did."""

  rater: int
  answered: int  # trials
  controls: int  # questions with a known answer
  right: int
  kept: bool


class Measure(NamedTuple):
  """One question, with a row for all prompts and one for each category."""

  name: str
  title: str
  low: str  # what 0 % means
  high: str
  rows: tuple[interval_plot.Row, ...]
  alpha: float | None  # Krippendorff's
  same: float | None  # share of equal pairs of answers


class Report(NamedTuple):
  """All that a study says so far."""

  plan: rating_plan.Plan
  said: tuple[Said, ...]
  raters: tuple[RaterRow, ...]
  measures: tuple[Measure, ...]
  min_control: float


def make(
  store: rating_store.Store,
  *,
  min_control: float | None = None,
  draws: int = 2000,
) -> Report:
  """The report of the answers that are there; `min_control` in [0, 1]."""
  plan = store.plan
  if min_control is None:
    min_control = MIN_CONTROL[plan.protocol]
  said = tuple(_said(plan, store.answers()))
  raters = tuple(
    _rater(plan, number, said, min_control) for number in store.tokens()
  )
  kept = {row.rater for row in raters if row.kept}
  counted = [
    s for s in said if s.rater in kept and not plan.trials[s.trial].expected
  ]
  measures = tuple(_measures(plan, counted, draws))
  return Report(plan, said, raters, measures, min_control)


def _said(
  plan: rating_plan.Plan, answers: Sequence[rating_store.Answer]
) -> list[Said]:
  turns = {
    rater: {turn.trial: turn for turn in rating_plan.schedule(plan, rater)}
    for rater in {answer.rater for answer in answers}
  }
  found = []
  for rater, trial, choices, at in answers:
    turn = turns[rater][trial]
    for name in plan.trials[trial].questions:
      meaning = rating_plan.meaning(turn, choices[name])
      found.append(
        Said(rater, trial, name, turn.left, choices[name], meaning, at)
      )
  return found


def _rater(
  plan: rating_plan.Plan,
  number: int,
  said: Sequence[Said],
  min_control: float,
) -> RaterRow:
  mine = [s for s in said if s.rater == number]
  checks = [
    s.meaning in plan.trials[s.trial].expected[s.question]
    for s in mine
    if plan.trials[s.trial].expected
  ]
  right = sum(checks)
  kept = not checks or right >= min_control * len(checks)
  return RaterRow(
    number, len({s.trial for s in mine}), len(checks), right, kept
  )


def _measures(
  plan: rating_plan.Plan, said: Sequence[Said], draws: int
) -> list[Measure]:
  a, b = plan.names
  found = []
  ends = (f"all for {b}", f"all for {a}")
  for name in ("quality", "alignment"):
    some = [s for s in said if s.question == name]
    words = {"a": a, "indifferent": "indifferent", "b": b}
    text = rating_plan.QUESTIONS[name]
    found.append(_measure(plan, name, text, some, words, *ends, draws))
  some = [s for s in said if s.question == "real"]
  words = {"a": f"{a} taken for real", "b": b}
  text = f"{rating_plan.QUESTIONS['real']} (50 %: as real as {b})"
  found.append(_measure(plan, "real", text, some, words, *ends, draws))
  for source, label in zip("ab", plan.names, strict=True):
    some = [
      s
      for s in said
      if s.question == "caption" and plan.trials[s.trial].a[0].source == source
    ]
    words = {name: name for name in ("yes", "somewhat", "no")}
    text = f"{rating_plan.QUESTIONS['caption']} ({label})"
    found.append(
      _measure(
        plan, f"caption_{source}", text, some, words, "all no", "all yes", draws
      )
    )
  return [measure for measure in found if measure.rows]


def _measure(
  plan: rating_plan.Plan,
  name: str,
  title: str,
  said: Sequence[Said],
  words: dict[str, str],
  low: str,
  high: str,
  draws: int,
) -> Measure:
  groups: dict[str, list[Said]] = collections.defaultdict(list)
  for s in said:
    groups[ALL].append(s)
    if category := plan.trials[s.trial].category:
      groups[category].append(s)
  order = [ALL, *sorted(groups.keys() - {ALL})] if said else []
  rows = []
  for category in order:
    some = groups[category]
    shares = rating_stats.shares([s.meaning for s in some], list(words))
    rows.append(
      interval_plot.Row(
        category,
        len(some),
        rating_stats.rate(_votes(some), draws=draws),
        {words[key]: share for key, share in shares.items()},
      )
    )
  votes = _votes(said)
  return Measure(
    name,
    title,
    low,
    high,
    tuple(rows),
    rating_stats.krippendorff_alpha(votes),
    rating_stats.same_share(votes),
  )


def _votes(said: Sequence[Said]) -> list[rating_stats.Vote]:
  return [rating_stats.Vote(s.rater, s.trial, _VALUES[s.meaning]) for s in said]


def to_json(report: Report) -> files.Json:
  """The numbers of a report; rates are in [0, 1]."""
  return {
    "protocol": report.plan.protocol,
    "names": list(report.plan.names),
    "digest": report.plan.digest,
    "min_control": report.min_control,
    "raters": [row._asdict() for row in report.raters],
    "measures": {
      m.name: {
        "title": m.title,
        "krippendorff_alpha": m.alpha,
        "same_share": m.same,
        "rows": [
          {
            "category": row.name,
            "answers": row.count,
            "rate": row.rate.value,
            "low": row.rate.low,
            "high": row.rate.high,
            "shares": dict(row.shares),
          }
          for row in m.rows
        ],
      }
      for m in report.measures
    },
  }
