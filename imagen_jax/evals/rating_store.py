"""Where answers of raters are kept: one SQLite file, safe against kills.

An answer is acknowledged after a commit with synchronous=FULL in WAL mode, so
it survives a kill of the process, and a power cut as far as the disk keeps what
it says it wrote. The file must be on a local disk: WAL needs shared memory.

The first answer of a rater to a trial is final: the same again changes nothing
("repeated"), another is not taken ("refused").

Each rater has a token of 192 random bits. Whoever has the file has the tokens,
so it is readable by its owner alone.
"""

import contextlib
import hmac
import json
import os
import pathlib
import secrets
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

from imagen_jax.core import errors, files, wall_time
from imagen_jax.evals import rating_plan

FILE = "ratings.sqlite"
_SCHEMA = 1
_TABLES = """
create table if not exists meta (name text primary key, value text not null);
create table if not exists raters (
  number integer primary key, token text not null unique
);
create table if not exists answers (
  rater integer not null references raters(number),
  trial integer not null,
  choices text not null,
  at real not null,
  primary key (rater, trial)
);
"""

Outcome = Literal["kept", "repeated", "refused"]


class Answer(NamedTuple):
  """What a rater chose on one page."""

  rater: int
  trial: int
  choices: dict[str, str]  # by question: left, right, indifferent, yes, ...
  at: float  # seconds since 1970


class Store:
  """An open study: its plan, its raters and their answers.

  Its methods may be called from several threads.
  """

  def __init__(self, connection: sqlite3.Connection):
    self._connection = connection
    self._lock = threading.Lock()
    self.plan = rating_plan.from_json(json.loads(self._meta("plan")))
    self.secret = self._meta("secret")  # names images so that none is guessed

  def tokens(self) -> dict[int, str]:
    """Number and token of each rater."""
    return dict(self._all("select number, token from raters order by number"))

  def rater(self, token: str) -> int | None:
    """Whose token it is; compares with all, in constant time each."""
    given = token.encode("utf-8", "replace")
    found = None
    for number, known in self.tokens().items():
      if hmac.compare_digest(given, known.encode()):
        found = number
    return found

  def answer(
    self, rater: int, trial: int, choices: Mapping[str, str]
  ) -> Outcome:
    """Keeps an answer; returns once it is on disk."""
    _check(self.plan, trial, choices)
    text = json.dumps(dict(choices), sort_keys=True)
    with self._lock, _transaction(self._connection) as connection:
      done = connection.execute(
        "insert into answers values (?, ?, ?, ?) on conflict do nothing",
        (rater, trial, text, wall_time.now()),
      )
      if done.rowcount:
        return "kept"
      (kept,) = connection.execute(
        "select choices from answers where rater = ? and trial = ?",
        (rater, trial),
      ).fetchone()
    return "repeated" if kept == text else "refused"

  def answered(self, rater: int) -> set[int]:
    """The trials that a rater has answered."""
    rows = self._all("select trial from answers where rater = ?", rater)
    return {trial for (trial,) in rows}

  def answers(self) -> list[Answer]:
    """All answers, in the order in which they came."""
    rows = self._all(
      "select rater, trial, choices, at from answers order by rowid"
    )
    return [Answer(r, t, json.loads(text), at) for r, t, text, at in rows]

  def close(self) -> None:
    """Folds the log into the file and closes it."""
    with self._lock:
      self._connection.close()

  def _meta(self, name: str) -> str:
    ((value,),) = self._all("select value from meta where name = ?", name)
    return value

  def _all(self, query: str, *values: str | int) -> list[tuple]:
    with self._lock:
      return self._connection.execute(query, values).fetchall()


def create(
  path: files.PathLike, plan: rating_plan.Plan, *, raters: int
) -> Store:
  """Begins a study, or goes on with it: the plan must then be the same.

  There are at least `raters` raters afterwards; none is taken away.
  """
  path = pathlib.Path(path)
  if not path.exists():
    path.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
  connection = _connect(path)
  try:
    with _transaction(connection):
      _begin(connection, path, plan)
      (known,) = connection.execute("select count(*) from raters").fetchone()
      connection.executemany(
        "insert into raters values (?, ?)",
        [(k, secrets.token_urlsafe(24)) for k in range(known + 1, raters + 1)],
      )
    return Store(connection)
  except BaseException:
    connection.close()
    raise


def open_study(path: files.PathLike) -> Store:
  """A study that was begun before; BadInput where there is none."""
  path = pathlib.Path(path)
  if not path.is_file():
    raise errors.BadInput(
      f"{str(path)!r} is not there; begin with `imagen evaluate rate --a=FOLDER"
      " --b=FOLDER --out=FOLDER`."
    )
  connection = _connect(path)
  try:
    return Store(connection)
  except (sqlite3.Error, ValueError) as error:
    connection.close()
    raise errors.BadInput(
      f"{str(path)!r} holds no study ({error}); give the folder of one."
    ) from error


def _connect(path: pathlib.Path) -> sqlite3.Connection:
  connection = sqlite3.connect(
    path, timeout=30, isolation_level=None, check_same_thread=False
  )
  try:
    connection.execute("pragma journal_mode = wal")
    connection.execute("pragma synchronous = full")
    connection.execute("pragma foreign_keys = on")
    connection.executescript(_TABLES)
  except sqlite3.Error as error:
    connection.close()
    raise errors.BadInput(
      f"{str(path)!r} cannot be used as a file of ratings ({error}); give"
      " another folder, on a local disk."
    ) from error
  return connection


def _begin(
  connection: sqlite3.Connection,
  path: pathlib.Path,
  plan: rating_plan.Plan,
) -> None:
  """Writes the plan, or holds it to the one that is there."""
  meta = dict(connection.execute("select name, value from meta").fetchall())
  if not meta:
    values = {
      "schema": str(_SCHEMA),
      "plan": json.dumps(rating_plan.to_json(plan)),
      "secret": secrets.token_hex(32),
    }
    connection.executemany("insert into meta values (?, ?)", values.items())
    return
  if meta.get("schema") != str(_SCHEMA):
    raise errors.BadInput(
      f"{str(path)!r} has schema {meta.get('schema')}, and this version reads"
      f" {_SCHEMA}; use the version that began the study."
    )
  if json.loads(meta["plan"])["digest"] != plan.digest:
    raise errors.BadInput(
      f"{str(path)!r} holds a study of other images, prompts or settings; give"
      " what it was begun with, or another folder for a new study."
    )


@contextlib.contextmanager
def _transaction(
  connection: sqlite3.Connection,
) -> Iterator[sqlite3.Connection]:
  connection.execute("begin immediate")
  try:
    yield connection
  except BaseException:
    connection.execute("rollback")
    raise
  connection.execute("commit")


def _check(
  plan: rating_plan.Plan, trial: int, choices: Mapping[str, str]
) -> None:
  if not 0 <= trial < len(plan.trials):
    raise errors.BadInput(f"there is no trial {trial}; go on with the next.")
  asked = plan.trials[trial].questions
  for name in asked:
    if choices.get(name) not in rating_plan.choices(name):
      raise errors.BadInput(
        f"question {name!r} takes {', '.join(rating_plan.choices(name))};"
        f" given was {str(choices.get(name))[:40]!r}."
      )
  if extra := set(choices) - set(asked):
    raise errors.BadInput(f"nothing was asked about {min(extra)[:40]!r}.")
