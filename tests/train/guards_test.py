"""Spikes are skipped to the bit, counted, and capped."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.cascade import stage as stage_lib
from imagen_jax.core import errors
from imagen_jax.train import guards, optimizers
from imagen_jax.train import state as state_lib
from imagen_jax.train import step as step_lib
from tests.train import tiny_run

N = state_lib.WINDOW


@pytest.fixture(scope="module")
def state():
  params = stage_lib.init(tiny_run.STAGE, jax.random.key(0))
  return state_lib.create(params, tiny_run.RULE)


def guard_after(state, losses, norms, deviations=6.0):
  """The guard after these numbers, and which of them were spikes."""

  def step(guard, numbers):
    loss, norm = numbers
    spike = guards.is_spike(guard, loss, norm, deviations=deviations)
    return guards.after(guard, loss, norm, spike), spike

  numbers = (jnp.asarray(losses, jnp.float32), jnp.asarray(norms, jnp.float32))
  return jax.lax.scan(step, state.guard, numbers)


def test_a_spike_is_what_numpy_says_it_is(state):
  draw = np.random.default_rng(0)
  losses, norms = draw.normal(1, 0.1, N + 50), draw.normal(3, 0.3, N + 50)
  losses[N + 10], norms[N + 20], losses[N + 30], losses[5] = 1.9, 6.0, 1.5, 9
  guard, spikes = guard_after(state, losses, norms)
  kept_losses, kept_norms, expected = [], [], []
  for loss, norm in zip(losses, norms, strict=True):
    past = [np.float64(kept[-N:]) for kept in (kept_losses, kept_norms)]
    spike = len(kept_losses) >= N and any(
      x > p.mean() + 6 * p.std()
      for x, p in zip((loss, norm), past, strict=True)
    )
    expected.append(spike)
    if not spike:
      kept_losses.append(loss)
      kept_norms.append(norm)
  # While the outlier at 5 is in the window, 1.9 is not one.
  np.testing.assert_array_equal(spikes, expected)
  assert spikes[N + 20] and spikes.sum() == guard.skipped == sum(expected)
  assert guard.seen == N + 50 - guard.skipped


def test_nothing_is_a_spike_before_the_window_is_full_or_without_guard(state):
  early = [1.0] * (N - 1) + [1e9]
  assert not guard_after(state, early, [1.0] * N)[1].any()
  late = [1.0] * N + [1e9]
  assert guard_after(state, late, [1.0] * (N + 1))[1].sum() == 1
  assert not guard_after(state, late, [1.0] * (N + 1), deviations=0.0)[1].any()


def test_skips_in_a_row_begin_anew_after_an_update(state):
  losses = [1.0] * N + [9.0, 9.0, 1.0, 9.0]
  guard, _ = guard_after(state, losses, [1.0] * (N + 4))
  assert (guard.skipped, guard.skipped_in_a_row) == (3, 1)


def full_window(state):
  """A state whose window has losses near 1."""
  ring = jnp.linspace(0.9, 1.1, N)
  guard = state.guard.replace(
    losses=1e3 * ring, grad_norms=1e3 * ring, seen=jnp.int32(N)
  )
  return state.replace(guard=guard)


def test_a_skipped_update_keeps_every_bit_and_counts_the_step(state):
  step = jax.jit(
    step_lib.make_train_step(
      tiny_run.STAGE, tiny_run.RULE, ema_decay=0.9, spike_deviations=6.0
    )
  )
  batch = tiny_run.prepare(next(tiny_run.Noise().batches(0)))
  before = full_window(state)
  outlier = batch | {"image": 1e3 * batch["image"]}
  skipped, metrics = step(before, outlier, jax.random.key(0))
  for name in ("params", "ema_params", "opt_state"):
    same = jax.tree.map(
      np.array_equal, getattr(skipped, name), getattr(before, name)
    )
    assert all(jax.tree.leaves(same)), name
  assert skipped.step == before.step + 1
  assert metrics["skipped"] == metrics["skipped_in_a_row"] == 1
  updated, metrics = step(before, batch, jax.random.key(0))
  assert metrics["skipped"] == 0
  assert not np.array_equal(
    updated.params["head"]["kernel"], before.params["head"]["kernel"]
  )


@pytest.mark.parametrize(
  ("caps", "last"),
  [({"max_skipped_in_a_row": 2}, 3), ({"max_skipped": 1}, 2)],
)
def test_too_many_skips_end_the_run(tmp_path, monkeypatch, caps, last):
  monkeypatch.setattr(
    guards, "is_spike", lambda *_, deviations: jnp.array(True)
  )
  step = step_lib.make_train_step(tiny_run.STAGE, tiny_run.RULE, ema_decay=0.9)
  with pytest.raises(errors.NonFinite, match=rf"at step {last} {last} updates"):
    tiny_run.train(tmp_path, 9, train_step=step, **caps)
  assert (tmp_path / "bad_batch.json").exists()


def test_a_state_that_is_not_finite_is_named(state):
  guards.check_finite(state)
  kernel = state.params["head"]["kernel"].at[0, 0].set(jnp.inf)
  bad = state.replace(params=state.params | {"head": {"kernel": kernel}})
  with pytest.raises(errors.NonFinite, match="1 leaves.*params/head/kernel"):
    guards.check_finite(bad)


def loss_after(workdir, steps, *, outliers, deviations):
  """The loss of other batches after so many steps; how many were skipped."""

  def disturb(step, batch):
    if outliers and step > N and step % 100 == 50:
      batch["image"] = 1e3 * batch["image"]
    return batch

  state = tiny_run.train(
    workdir,
    steps,
    source=tiny_run.Noise(disturb),
    train_step=step_lib.make_train_step(
      tiny_run.STAGE,
      # Clipping alone would hide much of an outlier.
      optimizers.make("adam", lambda _: 1e-2, clip_norm=1e9),
      ema_decay=0.9,
      spike_deviations=deviations,
    ),
    log_every=100,
    checkpoint_every=steps,
  )
  total = 0.0
  batches = tiny_run.Noise().batches(10_000)
  for step in range(8):
    batch = next(batches)
    loss = stage_lib.loss(
      tiny_run.STAGE,
      state.params,
      jax.tree.map(jnp.asarray, tiny_run.prepare(batch)),
      jax.random.key(step),
    )
    total += float(loss.per_example.mean())
  return total, int(state.guard.skipped)


@pytest.mark.slow
@pytest.mark.parametrize(
  "steps", [400, pytest.param(4000, marks=pytest.mark.nightly)]
)
def test_one_outlier_in_a_hundred_does_not_move_the_loss(tmp_path, steps):
  def run(name, *, outliers, deviations):
    return loss_after(
      tmp_path / name, steps, outliers=outliers, deviations=deviations
    )

  clean, none = run("a", outliers=False, deviations=8.0)
  guarded, skipped = run("b", outliers=True, deviations=8.0)
  plain, _ = run("c", outliers=True, deviations=0.0)
  # Losses have a tail: a batch in thousands is beyond eight deviations.
  assert none <= steps // 1000
  assert skipped - none == steps // 100 - 1
  assert abs(guarded / clean - 1) < 0.02
  assert abs(plain / clean - 1) > 0.05
