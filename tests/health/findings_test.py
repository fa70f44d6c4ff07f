"""Which of several problems decides the exit code."""

from imagen_jax.core import errors
from imagen_jax.health import findings


def problem(kind):
  return findings.problem("a", "is wrong", "do that", kind)


def test_the_worst_is_what_is_lost_on_disk():
  kinds = [errors.CheckpointError, errors.BadInput, errors.DataError]
  found = [problem(kind) for kind in kinds]
  assert findings.worst(found) is errors.CheckpointError
  assert findings.worst(found[1:]) is errors.DataError
  assert findings.worst(found[1:2]) is errors.BadInput


def test_only_problems_count():
  found = [
    findings.ok("a", "well"),
    findings.skipped("b", "not known"),
    findings.warning("c", "odd", "look"),
  ]
  assert findings.worst(found) is None
  assert findings.worst([]) is None


def test_an_error_is_a_problem_of_its_own_kind():
  found = findings.of_error("a", errors.DataError("a file is torn."))
  assert found == ("a", "problem", "a file is torn.", "", errors.DataError)
