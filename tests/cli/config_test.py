"""--config and its overrides: what they set, and how they refuse."""

import pathlib
import textwrap

import pytest

from imagen_jax.cli import arguments, config
from imagen_jax.core import errors

CONFIG = '''
"""A config for these tests."""
import ml_collections
from ml_collections import config_dict

def get_config(arg="base"):
  if arg == "wrong":
    raise ValueError("argument 'wrong' is not known; use base.")
  return ml_collections.ConfigDict({
    "name": arg,
    "train": {"steps": 1000, "rate": 1e-4, "shuffle": True, "note": None,
              "limit": config_dict.placeholder(int)},
    "model": {"mult": (1, 2, 4), "rates": (0.1, 0.2), "names": ("a", "b"),
              "sizes": [1, 2], "empty": (),
              "blocks": ({"channels": 32}, {"channels": 64})},
  })
'''


@pytest.fixture
def write(tmp_path: pathlib.Path):
  def write_file(text: str, name: str = "some.py") -> str:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))
    return str(path)

  return write_file


@pytest.fixture
def parse(write):
  file = write(CONFIG)

  def parse_line(*argv: str, arg: str = ""):
    parser = arguments.make("train", "Trains.", examples=["imagen train"])
    parser.add_argument("--workdir")
    spec = f"{file}:{arg}" if arg else file
    return config.parse([f"--config={spec}", *argv], config.add_flag(parser))

  return parse_line


def test_the_config_is_loaded_locked_and_takes_its_argument(parse):
  args, cfg = parse("--workdir=here")
  assert args.workdir == "here" and args.overrides == {}
  assert cfg.name == "base" and cfg.is_locked and cfg.train.is_locked
  assert parse(arg="sr")[1].name == "sr"
  with pytest.raises(AttributeError):
    cfg.nothing = 1


@pytest.mark.parametrize(
  ("flag", "field", "value"),
  [
    ("--config.name=x=y", "name", "x=y"),
    ("--config.name=", "name", ""),
    ("--config.train.steps=7", "train.steps", 7),
    ("--config.train.steps=2e3", "train.steps", 2000),
    ("--config.train.steps=-1_000", "train.steps", -1000),
    ("--config.train.rate=1", "train.rate", 1.0),
    ("--config.train.shuffle=false", "train.shuffle", False),
    ("--config.train.shuffle", "train.shuffle", True),
    ("--noconfig.train.shuffle", "train.shuffle", False),
    ("--config.train.limit=5", "train.limit", 5),
    ("--config.train.limit=None", "train.limit", None),
    ("--config.train.note=(1, 'a')", "train.note", (1, "a")),
    ("--config.train.note=word", "train.note", "word"),
    ("--config.model.mult=1,2,3,4", "model.mult", (1, 2, 3, 4)),
    ("--config.model.mult=(5,)", "model.mult", (5,)),
    ("--config.model.mult=", "model.mult", ()),
    ("--config.model.rates=1,2", "model.rates", (1.0, 2.0)),
    ("--config.model.names=x,7", "model.names", ("x", "7")),
    ("--config.model.sizes=[3, 4]", "model.sizes", [3, 4]),
    ("--config.model.empty=3,a", "model.empty", (3, "a")),
  ],
)
def test_an_override_keeps_the_type(parse, flag: str, field: str, value):
  _, cfg = parse(flag)
  got = cfg
  for part in field.split("."):
    got = got[part]
  assert got == value and type(got) is type(value)
  assert cfg.is_locked


def test_an_override_reaches_into_a_sequence(parse):
  _, cfg = parse(
    "--config.model.blocks[1].channels=128", "--config.model.mult[0]=9"
  )
  assert [block["channels"] for block in cfg.model.blocks] == [32, 128]
  assert cfg.model.mult == (9, 2, 4)
  _, fresh = parse()
  assert [block["channels"] for block in fresh.model.blocks] == [32, 64]


def test_overrides_are_applied_in_order_and_reported(parse):
  args, cfg = parse("--config.train.steps=1", "--config.train.steps=2")
  assert cfg.train.steps == 2
  assert args.overrides == {"train.steps": "2"}


@pytest.mark.parametrize(
  ("flag", "message"),
  [
    (
      "--config.trian.steps=1",
      "unknown config field 'trian.steps'.*mean 'train'.*model, name, train",
    ),
    (
      "--config.train.step=1",
      "no 'step'; did you mean 'steps'.*limit, note, rate, shuffle, steps",
    ),
    ("--config.steps=1", "did you mean 'train.steps'"),
    ("--config.train=1", "is a group; set one of its fields: limit, note"),
    ("--config.train.rate.x=1", "'x' is asked of 0.0001"),
    ("--config.train.steps=many", "is an int, now 1000; 'many' is not an int"),
    ("--config.train.steps=1.5", "write .*--config.train.steps=1000"),
    ("--config.train.steps=inf", "is an int"),
    ("--config.train.steps", "has no value; write --config.train.steps=1000"),
    ("--config.train.rate=fast", "is a float"),
    ("--config.train.shuffle=maybe", "is true or false, now True; 'maybe'"),
    ("--config.train.limit=few", "is an int, now None"),
    ("--config.model.mult=a,b", "is a tuple, now \\(1, 2, 4\\)"),
    ("--config.model.mult=(1,", "is a tuple"),
    ("--config.model.mult[3]=1", "past the end of 3"),
    ("--config.train.steps[0]=1", "is of no list"),
    ("--config.model.blocks[0].chanels=1", "did you mean 'channels'"),
    ("--config.a..b=1", "write a.b or a.b\\[0\\].c"),
    ("--noconfig.train.shuffle=1", "takes no value"),
    ("--workdri=here", "'--workdri'; did you mean '--workdir'"),
    ("--work=here", "unknown option '--work'"),
    ("here", "unexpected argument 'here'"),
  ],
)
def test_a_wrong_flag_says_what_is_right(parse, flag: str, message: str):
  with pytest.raises(errors.BadInput, match=f"(?s){message}"):
    parse(flag)


def test_a_missing_config_is_asked_for(parse):
  parser = config.add_flag(arguments.make("train", "Trains.", examples=[]))
  with pytest.raises(errors.BadInput, match="required: --config; see `imagen"):
    config.parse([], parser)


def test_without_a_config_there_is_nothing_to_override():
  parser = arguments.make("embed", "Embeds.", examples=[])
  assert config.parse([], parser)[1] is None
  with pytest.raises(errors.BadInput, match="needs --config=FILE"):
    config.parse(["--config.a=1"], parser)


def test_a_default_config_is_used(write):
  parser = arguments.make("sample", "Samples.", examples=[])
  config.add_flag(parser, default=write(CONFIG) + ":other")
  assert config.parse([], parser)[1].name == "other"


def test_a_missing_file_names_those_nearby(write):
  folder = pathlib.Path(write(CONFIG, "configs/demo.py")).parent
  message = "no config file .*; did you mean .*configs/demo.py"
  with pytest.raises(errors.BadInput, match=message):
    config.load(str(folder / "demos.py"))


def test_a_file_is_found_beside_the_package(
  monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
):
  monkeypatch.chdir(tmp_path)
  assert config.find("configs/demo.py").is_file()


def test_a_config_may_import_its_neighbours_from_anywhere(
  write, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
):
  write("NUMBER = 3", "neighbours/configs/own_common.py")
  file = write(
    """
    import ml_collections
    from configs import own_common
    def get_config():
      return ml_collections.ConfigDict({"number": own_common.NUMBER})
    """,
    "neighbours/configs/main.py",
  )
  monkeypatch.delitem(config.sys.modules, "configs", raising=False)
  monkeypatch.setattr(config.sys, "path", [*config.sys.path])
  before = list(config.sys.path)
  try:
    assert config.load(file).number == 3
  finally:
    for name in ("configs", "configs.own_common"):
      config.sys.modules.pop(name, None)
  assert config.sys.path == before


@pytest.mark.parametrize(
  ("text", "arg", "message"),
  [
    ("x = 1", "", "no function get_config"),
    ("def get_config(): return {}", "", "returns a dict; it must return"),
    ("def get_config(): return 1", ":a", "takes no argument, but 'a'"),
    ("def get_config(arg): return 1", "", "needs its argument 'arg'"),
    ("def get_config(:\n", "", "line 1 SyntaxError"),
    ("\ndef get_config():\n  return lost\n", "", "line 3 NameError: name"),
    (CONFIG, ":wrong", "some.py: argument 'wrong' is not known; use base"),
  ],
)
def test_a_broken_config_says_where(write, text: str, arg: str, message: str):
  file = write(text)
  with pytest.raises(errors.BadInput, match=message):
    config.load(file + arg)


def test_a_config_that_is_not_python(write):
  with pytest.raises(errors.BadInput, match="not a Python file"):
    config.load(write("{}", "some.json"))
