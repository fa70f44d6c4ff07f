"""A stage starts from what was trained before, or says what does not fit."""

import json
import logging

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from imagen_jax import build
from imagen_jax.cascade import folder
from imagen_jax.cascade import stage as stage_lib
from imagen_jax.core import errors, tree
from imagen_jax.train import checkpoints, initial
from imagen_jax.train import state as state_lib
from imagen_jax.weights import native
from tests import tiny_cascade

INFOS = {info.name: info for info in tiny_cascade.infos(8, "none")}
STAGES = {name: build.stage(info.stage) for name, info in INFOS.items()}
BASE = STAGES["base"]
KEY = jax.random.key(5)
WIDER = build.stage(INFOS["base"].stage | {"text_width": 12})
FRESH = (r"conditioning/text_(norm|projection)/.*",)


def write_file(path, stage_name="base", dtype=jnp.float32):
  params = tiny_cascade.random_params(STAGES[stage_name])
  folder.save_stage(path, params, INFOS[stage_name], dtype=dtype)
  return params


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  """Checkpoints 3 and 6; the EMA of step n is n times the parameters."""
  where = tmp_path_factory.mktemp("run")
  params = tiny_cascade.random_params(BASE)
  run = {"config": {"stage": INFOS["base"].stage}}
  (where / "run.json").write_text(json.dumps(run))
  state = state_lib.create(params, optax.sgd(1.0))
  saver = checkpoints.Checkpoints(where)
  for step in (3, 6):
    ema = jax.tree.map(lambda x, n=step: x * n, params)
    saver.save(step, state.replace(ema_params=ema), wait=True)
  saver.close()
  return where


def _start(stage, source, **changes):
  return initial.initial_params(stage, source, key=KEY, **changes)


def _same(params, expected):
  jax.tree.map(np.testing.assert_array_equal, params, expected)


@pytest.mark.parametrize("name", STAGES)
def test_an_export_gives_its_parameters_to_the_bit(tmp_path, name):
  written = write_file(tmp_path / "x.safetensors", name)
  _same(_start(STAGES[name], tmp_path / "x.safetensors"), written)


def test_a_workdir_gives_ema_or_raw_of_the_newest_or_another(workdir):
  raw = tiny_cascade.random_params(BASE)
  third = workdir / "checkpoints" / "3"
  _same(_start(BASE, workdir), jax.tree.map(lambda x: x * 6, raw))
  _same(_start(BASE, str(third)), jax.tree.map(lambda x: x * 3, raw))
  _same(_start(BASE, workdir, which="raw"), raw)


def test_imported_weights_need_no_config_of_a_stage(tmp_path):
  params = tiny_cascade.random_params(BASE)
  native.save_params(tmp_path / "x.safetensors", params, {}, jnp.float32)
  _same(_start(BASE, tmp_path / "x.safetensors"), params)


def test_the_ema_starts_at_the_loaded_parameters(tmp_path):
  written = write_file(tmp_path / "x.safetensors", dtype=jnp.bfloat16)
  loaded = _start(BASE, tmp_path / "x.safetensors")
  state = state_lib.create(loaded, optax.sgd(1.0))
  _same(state.ema_params, loaded)
  rounded = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), written)
  _same(tree.cast(rounded, jnp.float32), loaded)
  assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(loaded))


def test_fresh_parameters_are_drawn_and_the_others_loaded(tmp_path, caplog):
  """As for another text encoder: the names are the same, the shapes not."""
  written = tree.flatten(write_file(tmp_path / "x.safetensors"))
  with caplog.at_level(logging.INFO):
    params = _start(WIDER, tmp_path / "x.safetensors", fresh=FRESH)
  drawn = tree.flatten(stage_lib.init(WIDER, KEY))
  of_text = ("conditioning/text_norm", "conditioning/text_projection")
  new = [name for name in drawn if name.startswith(of_text)]
  for name, leaf in tree.flatten(params).items():
    expected = (drawn if name in new else written)[name]
    np.testing.assert_array_equal(leaf, expected, err_msg=name)
  assert f"{len(drawn) - 4} parameters" in caplog.text
  assert "4 drawn anew" in caplog.text
  assert "conditioning/text_projection/kernel (12, 32)" in caplog.text


def test_fresh_leaves_out_what_only_the_source_has(tmp_path):
  params = tiny_cascade.random_params(BASE)
  more = params | {"adapter": {"kernel": np.ones((2, 2), np.float32)}}
  path = tmp_path / "x.safetensors"
  native.save_params(path, more, {}, jnp.float32)
  with pytest.raises(errors.BadInput, match=r"adapter/kernel: \(2, 2\)"):
    _start(BASE, path)
  _same(_start(BASE, path, fresh=["adapter/.*"]), params)


def test_all_that_differs_is_one_error(tmp_path, workdir):
  path = tmp_path / "x.safetensors"
  write_file(path)
  for source in (path, workdir):
    with pytest.raises(errors.BadInput, match="config.stage.*fresh") as caught:
      _start(WIDER, source)
    rows = [row.split(": ") for row in str(caught.value).splitlines()[1:]]
    assert rows == [
      ["  conditioning/text_norm/bias", "(8,) float32 | (12,) float32"],
      ["  conditioning/text_norm/scale", "(8,) float32 | (12,) float32"],
      ["  conditioning/text_projection/kernel",
       "(8, 32) float32 | (12, 32) float32"],
    ]  # fmt: skip


def test_of_another_network_not_all_is_listed(tmp_path):
  path = tmp_path / "sr.safetensors"
  write_file(path, "sr")
  with pytest.raises(errors.BadInput) as caught:
    _start(BASE, path)
  _, *rows, last = str(caught.value).splitlines()
  assert len(rows) == 40 and last == "  and 237 more"
  assert "aug_level_mlp/dense_0/bias: (8,) float32 | missing" in rows[0]


def test_a_pattern_that_matches_nothing_is_named(tmp_path):
  write_file(tmp_path / "x.safetensors")
  fresh = [*FRESH, "text_projection/kernel"]
  with pytest.raises(errors.BadInput, match="'text_projection/kernel' matches"):
    _start(WIDER, tmp_path / "x.safetensors", fresh=fresh)


def test_another_prediction_or_schedule_is_told(tmp_path, workdir, caplog):
  write_file(tmp_path / "x.safetensors")
  changed = INFOS["base"].stage | {"prediction": "eps", "schedule": "linear"}
  for source in (tmp_path / "x.safetensors", workdir):
    caplog.clear()
    _start(build.stage(changed), source)
    assert "prediction was 'v' and is now 'eps'" in caplog.text
    assert "schedule was 'cosine'" in caplog.text
  caplog.clear()
  _start(BASE, workdir)
  assert "is now" not in caplog.text


def test_what_is_no_source_is_refused(tmp_path, workdir):
  for name in ("nothing", "nothing.safetensors"):
    with pytest.raises(errors.BadInput, match="neither a stage file"):
      _start(BASE, tmp_path / name)
  with pytest.raises(errors.BadInput, match=r"steps there are \[3, 6\]"):
    initial.initial_params(BASE, workdir / "checkpoints" / "4", key=KEY)


def test_a_damaged_checkpoint_is_an_error_of_integrity(tmp_path):
  path = tmp_path / "x.safetensors"
  write_file(path)
  content = bytearray(path.read_bytes())
  content[-5] ^= 1
  path.write_bytes(content)
  with pytest.raises(errors.CheckpointError, match="corrupt"):
    _start(BASE, path)
