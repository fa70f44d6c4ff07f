"""The rules of the house, each a function from sources to complaints.

Sources are {path: text}: of the package without its own name and ".py", as in
"core/rng", and of the configs with theirs, as in "configs/demo".
"""

import ast
import functools
import pathlib
import re
import subprocess
import sys
from collections.abc import Callable, Iterator

from tests import floors

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = "imagen_jax"

Sources = dict[str, str]
Rule = Callable[[Sources], list[str]]


@functools.cache
def sources() -> Sources:
  """The files of the package, without __init__ of its folders, and configs."""
  files = {
    _key(path.relative_to(ROOT / PACKAGE)): path.read_text(encoding="utf-8")
    for path in sorted((ROOT / PACKAGE).rglob("*.py"))
  }
  for path in sorted((ROOT / "configs").rglob("*.py")):
    files[_key(path.relative_to(ROOT))] = path.read_text(encoding="utf-8")
  return files


def _key(path: pathlib.Path) -> str:
  return path.with_suffix("").as_posix()


def _is_folder(name: str) -> bool:
  return name.endswith("/__init__")


def imports(name: str, text: str) -> Iterator[str]:
  """The dotted names that a file imports, wherever it does."""
  here = (PACKAGE, *name.split("/")) if name[:8] != "configs/" else (name,)
  for node in ast.walk(ast.parse(text)):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      base = here[: len(here) - node.level] if node.level else ()
      module = ".".join((*base, *filter(None, [node.module])))
      yield from (f"{module}.{alias.name}" for alias in node.names)


def within(dotted: str, files: Sources) -> str | None:
  """The file of ours that a dotted name comes from, or None."""
  parts = dotted.split(".")
  if parts[0] != PACKAGE:
    return None
  for end in range(len(parts), 0, -1):
    name = "/".join(parts[1:end])
    if name in files:
      return name
    if f"{name}/__init__".lstrip("/") in files:
      return f"{name}/__init__".lstrip("/")
  return dotted


def upward(files: Sources) -> list[str]:
  """A file imports from strictly lower floors."""
  complaints = []
  for name, text in files.items():
    if name.startswith("configs/") or _is_folder(name):
      continue
    for dotted in imports(name, text):
      used = within(dotted, files)
      if used is None or _is_folder(used):
        continue
      if used not in floors.FLOORS or name not in floors.FLOORS:
        continue  # `listed` says so
      if floors.FLOORS[used] >= floors.FLOORS[name]:
        complaints.append(
          f"{name} {floors.FLOORS[name]} imports {used} {floors.FLOORS[used]}"
        )
  return complaints


def listed(files: Sources) -> list[str]:
  """Every file has a floor."""
  return [
    f"{name} has no floor; add it to tests/floors.py"
    for name in files
    if name not in floors.FLOORS
    and not _is_folder(name)
    and name[:8] != "configs/"
  ]


def resolved(files: Sources) -> list[str]:
  """A file imports modules that exist, and no folder as a whole."""
  return [
    f"{name} imports {dotted}"
    for name, text in files.items()
    for dotted in imports(name, text)
    if (used := within(dotted, files)) is not None
    and (used not in files or _is_folder(used) or used == "__init__")
  ]


def acyclic(files: Sources) -> list[str]:
  """No file is reached from itself."""
  graph = {
    name: {used for d in imports(name, text) if (used := within(d, files))}
    for name, text in files.items()
  }

  def reached(start: str) -> set[str]:
    seen: set[str] = set()
    stack = list(graph[start])
    while stack:
      name = stack.pop()
      if name not in seen:
        seen.add(name)
        stack += graph.get(name, ())
    return seen

  return [f"{name} reaches itself" for name in graph if name in reached(name)]


def pillars(files: Sources) -> list[str]:
  """Diffusion knows no network, and networks know no diffusion."""
  complaints = []
  for name, text in files.items():
    for one, other in (floors.PILLARS, floors.PILLARS[::-1]):
      if name.split("/")[0] in one:
        complaints += [
          f"{name} imports {dotted}"
          for dotted in imports(name, text)
          if (within(dotted, files) or "").split("/")[0] in other
          or any(dotted.startswith(f"{PACKAGE}.{o}") for o in other)
        ]
  return complaints


def third_parties(files: Sources) -> list[str]:
  """Configs, TensorFlow and torch stay where they are allowed."""
  return [
    f"{name} imports {dotted}"
    for name, text in files.items()
    for dotted in imports(name, text)
    if (homes := floors.ALLOWED.get(dotted.split(".")[0])) is not None
    and not name.startswith(homes)
  ]


@functools.cache
def _requirements() -> dict[str, set[str]]:
  """The names in setup.py: {"CORE": {"jax", ...}, "EXTRAS": {...}}."""
  found = {}
  for node in ast.parse((ROOT / "setup.py").read_text()).body:
    if isinstance(node, ast.Assign) and node.targets[0].id in floors.DECLARED:
      value = ast.literal_eval(node.value)
      lists = [value] if isinstance(value, list) else value.values()
      names = {re.match(r"[\w.-]+", line)[0] for part in lists for line in part}
      found[node.targets[0].id] = {_module(name) for name in names}
  return found


def _module(distribution: str) -> str:
  names = {
    "absl-py": "absl",
    "apache-beam": "apache_beam",
    "beautifulsoup4": "bs4",
    "orbax-checkpoint": "orbax",
    "pillow": "PIL",
    "tensorflow-cpu": "tensorflow",
    "tensorflow-datasets": "tensorflow_datasets",
  }
  return names.get(distribution, distribution)


def declared(files: Sources) -> list[str]:
  """Every third party is required by setup.py, an extra's in its place."""
  core, extras = (_requirements()[name] for name in floors.DECLARED)
  return [
    f"{name} imports {dotted}, which setup.py does not require"
    for name, text in files.items()
    for dotted in imports(name, text)
    if (top := dotted.split(".")[0]) not in sys.stdlib_module_names
    and top not in (PACKAGE, "configs")
    and top not in core
    and not (
      top in extras | {"torch"} and name.startswith(floors.ALLOWED.get(top, ()))
    )
  ]


def short(files: Sources) -> list[str]:
  """A file stays under 300 lines."""
  return [
    f"{name} has {lines} lines"
    for name, text in files.items()
    if (lines := len(text.splitlines())) >= floors.MAX_LINES
  ]


def silent(files: Sources) -> list[str]:
  """Only the command line prints."""
  return [
    f"{name}:{node.lineno} prints"
    for name, text in files.items()
    if not name.startswith("cli/")
    for node in ast.walk(ast.parse(text))
    if isinstance(node, ast.Call)
    and isinstance(node.func, ast.Name)
    and node.func.id == "print"
  ]


def empty_folders(files: Sources) -> list[str]:
  """The __init__ of a folder holds a docstring and nothing else."""
  return [
    f"{name} holds code"
    for name, text in files.items()
    if _is_folder(name)
    for node in ast.parse(text).body
    if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
  ]


def explained(files: Sources) -> list[str]:
  """A file begins with a docstring."""
  return [
    f"{name} has no docstring"
    for name, text in files.items()
    if not _is_folder(name) and ast.get_docstring(ast.parse(text)) is None
  ]


def explicit(files: Sources) -> list[str]:
  """No function takes **kwargs."""
  return [
    f"{name}:{node.lineno} takes **{node.args.kwarg.arg}"
    for name, text in files.items()
    for node in ast.walk(ast.parse(text))
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    and node.args.kwarg is not None
  ]


def portable(files: Sources) -> list[str]:
  """No path of one machine, and no note to oneself."""
  # Written apart, as this file is searched too.
  machines = [f"/{name}/" for name in ("root", "work", "home")]
  notes = ["TO" + "DO", "FIX" + "ME", "XX" + "X"]
  pattern = "|".join(
    [rf"(?<![\w.~\]}}/-]){re.escape(m)}" for m in machines]
    + [rf"\b{note}\b" for note in notes]
  )
  return [
    f"{name} holds {match[0]!r}"
    for name, text in files.items()
    for match in re.finditer(pattern, text)
  ]


def tracked() -> Sources:
  """All text files of the repository: of git, or else of the folder."""
  command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
  listing = subprocess.run(
    command, cwd=ROOT, capture_output=True, text=True, check=False
  )
  if listing.returncode == 0:
    names = set(listing.stdout.splitlines())
  else:
    names = {p.relative_to(ROOT).as_posix() for p in _walk(ROOT)}
  files = {}
  for name in sorted(names):
    path = ROOT / name
    if path.is_file() and path.stat().st_size < 1 << 20:
      raw = path.read_bytes()
      if b"\0" not in raw:
        files[name] = raw.decode("utf-8", errors="replace")
  return files


def _walk(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  """Files that are not of a cache or an environment."""
  for path in folder.iterdir():
    hidden = path.name.startswith(".") and path.name not in (".ci", ".github")
    if hidden or path.name in ("__pycache__", "runs", "build", "dist"):
      continue
    if path.is_dir():
      yield from _walk(path)
    else:
      yield path
