"""`--config.field.sub=value`: one field of a config, in the type it has.

--config.train.steps=2000            int; 2e3 and 2_000 too
--config.train.shuffle, --noconfig.train.shuffle, =true, =false
--config.model.channel_mult=1,2,4    tuple or list, also "(1, 2, 4)"
--config.blocks[0].channels=32       an element
--config.data.limit=None             no value
"""

import ast
import re
from collections.abc import Sequence

import ml_collections

from imagen_jax.cli import arguments
from imagen_jax.core import errors

# What the tree of a config holds; anything else is a leaf.
_Key = str | int

_TRUE, _FALSE = ("true", "t", "1", "yes"), ("false", "f", "0", "no")
_NONE = ("none", "null")


def split(
  argv: Sequence[str],
) -> tuple[list[tuple[str, str | None]], list[str]]:
  """([(path, text), ...] of the overrides, the other arguments).

  The text is None where there is no `=`: a switch that is turned on.
  """
  given: list[tuple[str, str | None]] = []
  rest: list[str] = []
  for token in argv:
    path, equals, text = token.partition("=")
    if path.startswith("--config."):
      given.append((path.removeprefix("--config."), text if equals else None))
    elif path.startswith("--noconfig."):
      if equals:
        raise errors.BadInput(f"{path} takes no value, but {text!r} was given.")
      given.append((path.removeprefix("--noconfig."), "false"))
    else:
      rest.append(token)
  return given, rest


def apply(
  config: ml_collections.ConfigDict, path: str, text: str | None
) -> None:
  """Sets the field at `path` from its text, or raises BadInput."""
  _replace(config, _keys(path), text, path)


def parse_value(text: str | None, old: object, kind: type, path: str) -> object:
  """The text as a `kind`, the type of the field, which is now `old`."""
  if text is None:
    if kind is bool:
      return True
    raise errors.BadInput(
      f"--config.{path} has no value; write --config.{path}={old}."
    )
  if kind is str:
    return text
  if text.lower() in _NONE:
    return None
  try:
    return _typed(text, old, kind)
  except (ValueError, SyntaxError, TypeError):
    raise errors.BadInput(
      f"config field {path!r} is {_a(kind)}, now {old!r}; {text!r} is not"
      f" {_a(kind)}; write for example --config.{path}={_example(old, kind)}."
    ) from None


def _typed(text: str, old: object, kind: type) -> object:
  if kind is bool:
    if text.lower() in _TRUE + _FALSE:
      return text.lower() in _TRUE
    raise ValueError
  if kind is int:
    return _integer(text)
  if kind is float:
    return float(text)
  if kind in (tuple, list):
    return kind(_sequence(text, old))
  return _literal(text)  # a field that is None has no type yet


def _integer(text: str) -> int:
  try:
    return int(text)
  except ValueError:
    number = float(text)  # 1e6 is a whole number too
    if not number.is_integer():
      raise
    return int(number)


def _sequence(text: str, old: object) -> list:
  """Elements in the type of the old ones, where these share one."""
  text = text.strip()
  if text[:1] in ("(", "["):
    values = ast.literal_eval(text)
    values = values if isinstance(values, (tuple, list)) else (values,)
  else:
    values = [_literal(part) for part in text.split(",") if part.strip()]
  kinds = {type(value) for value in old or ()}
  if len(kinds) != 1:
    return list(values)
  (kind,) = kinds
  return [_element(value, kind) for value in values]


def _element(value: object, kind: type) -> object:
  if kind is float and type(value) is int:
    return float(value)
  if kind is str and isinstance(value, (int, float)):
    return str(value)
  if type(value) is not kind:
    raise TypeError
  return value


def _literal(text: str) -> object:
  """A Python literal, or else the text itself."""
  try:
    return ast.literal_eval(text.strip())
  except (ValueError, SyntaxError):
    return text.strip()


def _keys(path: str) -> list[_Key]:
  """a.b[0].c -> ["a", "b", 0, "c"]."""
  keys: list[_Key] = []
  for part in path.split("."):
    match = re.fullmatch(r"([^\[\]]+)((?:\[\d+\])*)", part)
    if match is None:
      raise errors.BadInput(
        f"cannot read the config field {path!r}; write a.b or a.b[0].c."
      )
    keys.append(match[1])
    keys.extend(int(index) for index in re.findall(r"\d+", match[2]))
  return keys


def _replace(
  node: object, keys: Sequence[_Key], text: str | None, path: str
) -> object:
  """`node` with the field at `keys` set; a ConfigDict in place, others anew."""
  key, *deeper = keys
  _check(node, key, path)
  old = node[key]
  if deeper:
    new = _replace(old, deeper, text, path)
  elif isinstance(old, (ml_collections.ConfigDict, dict)):
    raise errors.BadInput(
      f"config field {path!r} is a group; set one of its fields:"
      f" {_fields(old)}."
    )
  else:
    new = parse_value(text, old, _kind(node, key), path)
  if new is old:
    return node
  if isinstance(node, ml_collections.ConfigDict):
    node[key] = new
    return node
  if isinstance(node, dict):
    return {**node, key: new}
  return type(node)([*node[:key], new, *node[key + 1 :]])


def _check(node: object, key: _Key, path: str) -> None:
  """Raises BadInput if `node` has no `key`."""
  if isinstance(key, int):
    if not isinstance(node, (tuple, list)):
      raise errors.BadInput(f"config field {path!r}: [{key}] is of no list.")
    if key >= len(node):
      raise errors.BadInput(
        f"config field {path!r}: [{key}] is past the end of {len(node)}."
      )
    return
  if not isinstance(node, (ml_collections.ConfigDict, dict)):
    raise errors.BadInput(
      f"unknown config field {path!r}: {key!r} is asked of {node!r}, which has"
      " no fields."
    )
  if key not in node:
    last = _keys(path)[-1]
    deeper = [f for f in _leaves(node) if f.rpartition(".")[2] == last]
    near = arguments.did_you_mean(key, node)
    if near == "." and deeper:
      near = f"; did you mean {' or '.join(map(repr, deeper[:3]))}?"
    raise errors.BadInput(
      f"unknown config field {path!r}: there is no {key!r}{near}"
      f" Fields there: {_fields(node)}."
    )


def _leaves(node: ml_collections.ConfigDict | dict) -> list[str]:
  """The dotted paths below `node`."""
  paths = []
  for key in node:
    inner = isinstance(node[key], (ml_collections.ConfigDict, dict))
    paths += [f"{key}.{p}" for p in _leaves(node[key])] if inner else [key]
  return paths


def _kind(node: object, key: _Key) -> type:
  if isinstance(node, ml_collections.ConfigDict):
    return node.get_type(key)
  return type(node[key])


def _fields(node: ml_collections.ConfigDict | dict) -> str:
  return ", ".join(sorted(node)) or "none"


def _a(kind: type) -> str:
  name = {"str": "string", "bool": "true or false"}.get(
    kind.__name__, kind.__name__
  )
  article = {"int": "an ", "true or false": ""}.get(name, "a ")
  return article + name


def _example(old: object, kind: type) -> object:
  if old is None:
    return {int: 1, float: 0.5, bool: "true"}.get(kind, "1,2")
  if kind in (tuple, list):
    return ",".join(str(value) for value in old)
  return str(old).lower() if kind is bool else old
