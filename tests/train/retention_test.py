"""What stays, over a thousand steps with kills."""

import numpy as np
import pytest

from imagen_jax.train import retention


@pytest.mark.parametrize("higher_is_better", [False, True])
def test_1000_steps_with_kills_keep_what_is_promised(higher_is_better):
  draw = np.random.default_rng(1)
  policy = retention.Policy(3, 50, 2, higher_is_better)
  saved, scores, ever = set(), {}, {}
  step = 0
  for _ in range(1000):
    step += 1
    saved.add(step)
    score = float(draw.choice([draw.normal(), np.nan, np.inf]))
    if draw.random() < 0.8:
      scores[step] = ever[step] = score
    if draw.random() < 0.2:
      continue  # killed after the save, before anything was deleted
    stay = retention.kept(saved, policy, scores)
    gone = sorted(saved - stay)
    if draw.random() < 0.2:
      gone = gone[: draw.integers(len(gone) + 1)]  # killed while deleting
    saved -= set(gone)
    scores = {n: s for n, s in scores.items() if n in saved}
    # The promise, said another way: of all steps ever saved.
    finite = {n: s for n, s in ever.items() if np.isfinite(s)}
    order = sorted(finite, key=finite.get, reverse=higher_is_better)
    promised = {n for n in range(1, step + 1) if n > step - 3 or n % 50 == 0}
    promised |= set(order[:2])
    assert promised <= saved
    if saved == stay:
      assert saved == promised


def test_one_stays_whatever_the_policy():
  assert retention.kept([4, 2], retention.Policy(latest=0), {}) == {4}
  assert retention.kept([], retention.Policy(), {}) == set()


def test_lower_is_better_unless_said_otherwise():
  scores = {1: 0.1, 2: 0.5, 3: 0.3}
  low = retention.Policy(latest=1, best=1)
  assert retention.kept([1, 2, 3], low, scores) == {3, 1}
  high = low._replace(higher_is_better=True)
  assert retention.kept([1, 2, 3], high, scores) == {3, 2}
  # Of equal scores the newer one stays.
  assert retention.kept([1, 2, 3], low, {1: 0.2, 2: 0.2}) == {3, 2}
