"""The house and its floors: who may know whom, and what a file may hold.

The table is in `floors.py`, the rules are in `house_rules.py`. Each rule is
tested twice: the repository breaks it nowhere, and a bad source made up here
does.
"""

import subprocess
import sys

import pytest

from tests import house_rules as rules

BAD: list[tuple[rules.Rule, rules.Sources]] = [
  (
    rules.upward,
    {"core/rng": "from imagen_jax.core import tree", "core/tree": ""},
  ),
  (rules.upward, {"core/rng": "import imagen_jax.build", "build": ""}),
  (rules.upward, {"core/rng": "from . import tree", "core/tree": ""}),
  (
    rules.upward,
    {"core/rng": "def f():\n  import imagen_jax.build as b", "build": ""},
  ),
  (rules.listed, {"core/surprise": ""}),
  (rules.resolved, {"core/rng": "from imagen_jax.core import nothing"}),
  (
    rules.resolved,
    {"core/rng": "from imagen_jax import core", "core/__init__": ""},
  ),
  (rules.resolved, {"core/rng": "import imagen_jax", "__init__": ""}),
  (
    rules.acyclic,
    {
      "a": "from imagen_jax import b",
      "b": "from imagen_jax.c import f",
      "c": "import imagen_jax.a",
    },
  ),
  (
    rules.pillars,
    {"diffusion/steps": "from imagen_jax.nn import resnet", "nn/resnet": ""},
  ),
  (rules.pillars, {"models/bert": "import imagen_jax.diffusion.steps"}),
  (rules.third_parties, {"train/loop": "import ml_collections"}),
  (rules.third_parties, {"core/tree": "from torch import nn"}),
  (rules.third_parties, {"train/loop": "import tensorflow as tf"}),
  (rules.declared, {"core/tree": "import pandas"}),
  (rules.declared, {"core/tree": "from pytest import mark"}),
  (rules.short, {"core/tree": "\n" * 300}),
  (rules.silent, {"core/tree": "def f():\n  print('here')"}),
  (rules.empty_folders, {"core/__init__": '"""Core."""\nimport os'}),
  (rules.explained, {"core/tree": "import os"}),
  (rules.explicit, {"core/tree": "def f(**kwargs): pass"}),
  (rules.portable, {"launch/test.sh": "cd /" + "root/imagen"}),
  (rules.portable, {"core/tree": "# FIX" + "ME: later"}),
]

RULES = list(dict.fromkeys(rule for rule, _ in BAD))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_house_keeps_the_rule(rule: rules.Rule):
  files = rules.tracked() if rule is rules.portable else rules.sources()
  assert not rule(files), rule.__doc__


@pytest.mark.parametrize(("rule", "bad"), BAD)
def test_the_rule_can_be_broken(rule: rules.Rule, bad: rules.Sources):
  assert rule(bad)


def test_the_rules_let_good_sources_pass():
  good = {
    "core/rng": '"""Keys."""\nimport jax\nfrom imagen_jax.core import arrays\n',
    "core/arrays": '"""Types: a/home/b, $out/root/."""\n',
    "build": '"""Builds."""\nimport ml_collections\n',
    "cli/train": '"""Trains."""\nprint(1)\nfrom imagen_jax import build\n',
    "core/__init__": '"""Core."""\n',
  }
  assert [rule(good) for rule in RULES] == [[] for _ in RULES]


def _run_python(code: str) -> str:
  result = subprocess.run(
    [sys.executable, "-c", code],
    cwd=rules.ROOT,
    capture_output=True,
    text=True,
    check=True,
  )
  return result.stdout.strip()


def test_importing_the_package_imports_no_other_module():
  heavy = ("jax", "flax", "numpy", "tensorflow", "torch", "ml_collections")
  code = (
    "import sys; before = set(sys.modules); import imagen_jax;"
    " print(*sorted(set(sys.modules) - before))"
  )
  loaded = _run_python(code).split()
  assert "imagen_jax" in loaded
  assert not [m for m in loaded if m.split(".")[0] in heavy]
  ours = [m for m in loaded if m.startswith("imagen_jax.")]
  assert set(ours) <= {"imagen_jax.version"}


def test_importing_every_module_touches_no_device():
  names = [
    ".".join((rules.PACKAGE, *name.removesuffix("/__init__").split("/")))
    for name in rules.sources()
    if not name.startswith("configs/") and not name.startswith("__")
  ]
  code = (
    f"import importlib\nfor m in {names}: importlib.import_module(m)\n"
    "from jax._src import xla_bridge\n"
    "print(xla_bridge.backends_are_initialized())\n"
    "import sys; print('torch' in sys.modules, 'tensorflow' in sys.modules)"
  )
  assert _run_python(code).split() == ["False", "False", "False"]
