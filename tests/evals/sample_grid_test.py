"""Grids that show what was drawn, and measures of just that."""

import jax.numpy as jnp
import numpy as np
import optax
import PIL.Image
from etils import epath

from imagen_jax.core import images
from imagen_jax.evals import sample_grid
from imagen_jax.train import evaluator
from imagen_jax.train import state as state_lib
from tests.evals import sr_consistency_test

STAGE, SETTINGS = sr_consistency_test.STAGE, sr_consistency_test.SETTINGS
STATE = state_lib.create(
  {"colour": jnp.asarray([0.1, 0, -0.2])}, optax.identity()
)


def grid(**options):
  x_lr = sr_consistency_test.small(3)
  cond = {
    "text_emb": jnp.zeros((3, 4, 2)),
    "text_mask": jnp.ones((3, 4), bool),
    "x_lr": x_lr,
  }
  made = sample_grid.SampleGrid(STAGE, cond, SETTINGS, 1, columns=3, **options)
  assert isinstance(made, evaluator.Evaluator)
  return made


def test_a_stage_of_super_resolution_is_shown_below_what_it_enlarges(tmp_path):
  row = grid()(STATE, 7, epath.Path(tmp_path))
  assert list(row) == ["samples"]
  sheet = row["samples"]
  assert sheet.shape == (2 * 18 + 2, 3 * 18 + 2, 3)
  above, below = sheet[2:18, 2:18].astype(int), sheet[20:36, 2:18].astype(int)
  apart = (below - above).mean(axis=(0, 1))
  np.testing.assert_allclose(apart, [12.75, 0, -25.5], atol=1)
  path = tmp_path / "samples" / "00000007.png"
  np.testing.assert_array_equal(PIL.Image.open(path), sheet)


def test_measures_get_what_is_shown_and_it_is_drawn_once(tmp_path, monkeypatch):
  drawn, draw = [], sample_grid._draw
  monkeypatch.setattr(
    sample_grid, "_draw", lambda *given: drawn.append(draw(*given)) or drawn[-1]
  )

  def mean(x0, cond):
    assert cond["x_lr"].shape == (3, 8, 8, 3)
    assert x0 is drawn[0]
    return {"mean": float(x0.mean())}

  row = grid(measures=(mean, lambda *_: {"one": 1.0}))(
    STATE, 1, epath.Path(tmp_path)
  )
  assert len(drawn) == 1
  assert row["mean"] == float(drawn[0].mean()) and row["one"] == 1.0
  first = images.to_uint8(np.asarray(drawn[0]))[0]
  np.testing.assert_array_equal(row["samples"][20:36, 2:18], first)
