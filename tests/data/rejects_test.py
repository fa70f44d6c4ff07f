"""Tests of imagen_jax.data.rejects."""

import pytest

from imagen_jax.core import errors
from imagen_jax.data import rejects

BAD = rejects.Reject("shard/7", "it is damaged.")


def test_a_few_are_borne_and_told():
  told = []
  ledger = rejects.Ledger(
    rejects.Budget(count=3, fraction=0.0), lambda *args: told.append(args)
  )
  for step in range(3):
    ledger.add(step, 8, [BAD])
  assert told == [(BAD, 0), (BAD, 1), (BAD, 2)]
  assert (ledger.examples, ledger.rejects) == (24, 3)
  with pytest.raises(errors.DataError, match="4 of 36 .* step 3, more than 3"):
    ledger.add(3, 8, [BAD])
  assert len(told) == 4  # the last is told as well
  assert errors.DataError.exit_code == 4


def test_later_a_share_of_those_read_is_borne():
  ledger = rejects.Ledger(rejects.Budget(count=2, fraction=0.1))
  for step in range(100):
    ledger.add(step, 9, [BAD])  # one in ten
  with pytest.raises(errors.DataError, match="'shard/7': it is damaged. Look"):
    ledger.add(100, 8, [BAD, BAD])


def test_no_budget_bears_none():
  ledger = rejects.Ledger(rejects.Budget(count=0, fraction=0.0))
  ledger.add(0, 1000, [])
  with pytest.raises(errors.DataError, match="1 of 1001"):
    ledger.add(1, 0, [BAD])


@pytest.mark.parametrize(("count", "fraction"), [(-1, 0.0), (1, 1.5)])
def test_budgets_that_are_none(count, fraction):
  with pytest.raises(errors.BadInput, match="in \\[0, 1\\]"):
    rejects.Ledger(rejects.Budget(count=count, fraction=fraction))
