"""Nothing that is read is run: no pickle, no eval, no shell, no unpacking.

A lint over the syntax trees of the package, the configs, the launchers and
setup.py. What it allows is listed here, each with its reason; it is itself
tested on what it must catch.
"""

import ast
import re
from collections.abc import Iterator

import pytest

from tests import house_rules

# Modules whose formats are programs. Naming one is enough.
MODULES = re.compile(
  r"c?_?[pP]ickle\w*|dill|cloudpickle|joblib|marshal|shelve|runpy|code|pty"
)

# These are safe if a call of them says so.
# allow_pickle=False, or formats=, without which Pillow gives PostScript to gs.
SAFE_IF_TOLD = re.compile(r"(jax\.)?numpy\.load|PIL\.Image\.open")

# Functions, by where they are from; of these a mere mention is enough, too.
FUNCTIONS = re.compile(
  r"(builtins\.)?(eval|exec|compile|__import__)"
  r"|torch\.(jit\.|hub\.|package\.)?load\w*"
  r"|yaml\.(unsafe_|full_)?load(_all)?"
  r"|pandas\.read_pickle"
  r"|os\.(system|popen|exec[lv]\w*|spawn\w*|posix_spawnp?)"
  r"|subprocess\.get(status)?output"
  r"|importlib\.(import_module|__import__|util\.spec_from_file_location)"
  r"|shutil\.unpack_archive"
)

# Methods, of whatever object.
METHODS = {
  "exec_module",  # runs a file
  "load_module",
  "extractall",  # an archive says where it writes
  "extract",
  "read_pickle",
  "to_pickle",
}

# Arguments that turn code on.
ARGUMENTS = {"allow_pickle", "shell", "trust_remote_code"}

ALLOWED = {
  ("imagen_jax/weights/torch_files", "pickle"): (
    "an unpickler that calls stand-ins of its own alone, of a list; any other"
    " name in a file ends the reading"
  ),
  ("imagen_jax/cli/main", "importlib.import_module"): (
    "the module of a command, by the table in this file"
  ),
  ("imagen_jax/cli/evaluate", "importlib.import_module"): (
    "the module of a verb, by the table in this file"
  ),
  ("imagen_jax/__init__", "importlib.import_module"): (
    "a part of the package, by the table in this file, when it is first used"
  ),
  ("imagen_jax/cli/config", "importlib.util.spec_from_file_location"): (
    "a config is a Python program that its user names: --config=FILE"
  ),
  ("imagen_jax/cli/config", ".exec_module"): (
    "the same config; no other file is run"
  ),
  ("imagen_jax/data/seqio_tasks", "importlib.import_module"): (
    "a module that its user names, --module, to register seqio tasks"
  ),
}


def dangers(text: str) -> Iterator[str]:
  """What in a source could run, or unpack, what a file says; as it is named."""
  tree = ast.parse(text)
  names = _names(tree)
  safe = set()
  for node in ast.walk(tree):
    if isinstance(node, ast.Import | ast.ImportFrom):
      yield from _imports(node)
    elif isinstance(node, ast.Call):
      yield from _arguments(node)
      if _is_false(node, "allow_pickle") or _has(node, "formats"):
        safe.add(node.func)
    if isinstance(node, ast.Name | ast.Attribute):
      name = _dotted(node, names)
      if FUNCTIONS.fullmatch(name):
        yield name
      elif isinstance(node, ast.Attribute) and node.attr in METHODS:
        yield f".{node.attr}"
      elif SAFE_IF_TOLD.fullmatch(name) and node not in safe:
        yield name


def _names(tree: ast.Module) -> dict[str, str]:
  """What each imported name stands for: {"np": "numpy"}."""
  names = {}
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      names |= {a.asname: a.name for a in node.names if a.asname}
    elif isinstance(node, ast.ImportFrom):
      names |= {
        a.asname or a.name: f"{node.module}.{a.name}" for a in node.names
      }
  return names


def _imports(node: ast.Import | ast.ImportFrom) -> Iterator[str]:
  whole = isinstance(node, ast.Import)
  for name in [a.name for a in node.names] if whole else [node.module or ""]:
    if MODULES.fullmatch(name.partition(".")[0]):
      yield name.partition(".")[0]


def _arguments(node: ast.Call) -> Iterator[str]:
  for keyword in node.keywords:
    if keyword.arg in ARGUMENTS and not _is_false(node, keyword.arg):
      yield f"{keyword.arg}="


def _has(node: ast.Call, argument: str) -> bool:
  return argument in [keyword.arg for keyword in node.keywords]


def _is_false(node: ast.Call, argument: str) -> bool:
  """Whether a call says argument=False, in these letters."""
  return any(
    k.arg == argument
    and isinstance(k.value, ast.Constant)
    and not k.value.value
    for k in node.keywords
  )


def _dotted(node: ast.expr, names: dict[str, str]) -> str:
  """The name as if nothing had been renamed: np.load is numpy.load."""
  if isinstance(node, ast.Name):
    return names.get(node.id, node.id)
  if isinstance(node, ast.Attribute):
    return f"{_dotted(node.value, names)}.{node.attr}"
  return "?"


def sources() -> dict[str, str]:
  """{path without .py: text} of all Python that is not a test."""
  return {
    name.removesuffix(".py"): text
    for name, text in house_rules.tracked().items()
    if name == "setup.py"
    or (
      name.startswith(("imagen_jax/", "configs/", "launch/"))
      and name.endswith(".py")
    )
  }


def test_no_source_runs_or_unpacks_what_it_reads():
  files = sources()
  assert {"setup", "configs/demo", "imagen_jax/core/files"} <= files.keys()
  found = {
    (name, danger) for name, text in files.items() for danger in dangers(text)
  }
  assert found == set(ALLOWED)  # and nothing is allowed that is not used


CAUGHT = {
  "import pickle": "pickle",
  "import cloudpickle.cloudpickle as cp": "cloudpickle",
  "from dill import loads": "dill",
  "def f():\n  from joblib import load": "joblib",
  "import marshal, json": "marshal",
  "import _pickle": "_pickle",
  "import shelve": "shelve",
  "import torch\ntorch.load(p, weights_only=True)": "torch.load",
  "from torch import load as read\nread(p)": "torch.load",
  "import numpy as np\nnp.load(p)": "numpy.load",
  "import numpy as np\nnp.load(p, allow_pickle=flag)": "numpy.load",
  "from numpy import load\nf = load": "numpy.load",
  "import numpy\nnumpy.load(p, None, True)": "numpy.load",
  "import numpy as np\nnp.save(p, x, allow_pickle=True)": "allow_pickle=",
  "import PIL.Image\nPIL.Image.open(path)": "PIL.Image.open",
  "from PIL import Image\nImage.open(path).load()": "PIL.Image.open",
  "import yaml\nyaml.load(text, yaml.Loader)": "yaml.load",
  "from yaml import unsafe_load\nunsafe_load(t)": "yaml.unsafe_load",
  "eval(text)": "eval",
  "run = exec": "exec",
  "import builtins\nbuiltins.exec(x)": "builtins.exec",
  "compile(t, 'f', 'exec')": "compile",
  "__import__(name)": "__import__",
  "import os\nos.system(c)": "os.system",
  "from os import popen as p\np(c)": "os.popen",
  "import subprocess as s\ns.run(c, shell=True)": "shell=",
  "import subprocess as s\ns.Popen(c, shell=x)": "shell=",
  "import subprocess\nsubprocess.getoutput(c)": "subprocess.getoutput",
  "import importlib\nimportlib.import_module(n)": "importlib.import_module",
  "from importlib import import_module as m\nm(n)": "importlib.import_module",
  "spec.loader.exec_module(m)": ".exec_module",
  "archive.extractall(where, filter='data')": ".extractall",
  "import shutil\nshutil.unpack_archive(p)": "shutil.unpack_archive",
  "f(name, trust_remote_code=True)": "trust_remote_code=",
}


@pytest.mark.parametrize("source", CAUGHT)
def test_the_lint_catches(source: str):
  assert CAUGHT[source] in set(dangers(source))


@pytest.mark.parametrize(
  "source",
  [
    "import numpy as np\nnp.load(p, allow_pickle=False)",
    "import numpy as np\nnp.loadtxt(p)",
    "import PIL.Image\nPIL.Image.open(path, formats=('PNG',))",
    "import yaml\nyaml.safe_load(text)",
    "import re\nre.compile(p)",
    "lowered.compile()",
    "module.eval",
    "import subprocess\nsubprocess.run(['git', 'status'], shell=False)",
    "import importlib.metadata\nimportlib.metadata.version(n)",
    "import importlib.util\nimportlib.util.find_spec(n)",
    "import ast\nast.literal_eval(t)",
    "tar.extractfile(member)",
    "'pickle.loads(x)'  # eval(x)",
  ],
)
def test_the_lint_lets_pass(source: str):
  assert not list(dangers(source))
