"""Updates that must not be made: non-finite ones, and spikes.

A spike is a loss or gradient norm above mean + k deviations of the last
`state.WINDOW` updates, once there were so many. It is skipped: parameters,
optimiser and EMA keep their bits, and the step counts, so that the next batch
is another. What is not finite changes nothing at all, and stops the run.

Both are decided on the device, inside the step; no number is read for it.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from imagen_jax.core import errors, tree
from imagen_jax.train.state import WINDOW, Guard, TrainState

Scalar = Float[Array, ""]


def is_spike(
  guard: Guard, loss: Scalar, grad_norm: Scalar, *, deviations: float
) -> Bool[Array, ""]:
  """Whether either number stands out from the window; 0 deviations: never."""
  if deviations == 0:
    return jnp.array(False)

  def stands_out(value: Scalar, past: Float[Array, "n"]) -> Bool[Array, ""]:
    return value > past.mean() + deviations * past.std()

  return (guard.seen >= WINDOW) & (
    stands_out(loss, guard.losses) | stands_out(grad_norm, guard.grad_norms)
  )


def after(
  guard: Guard, loss: Scalar, grad_norm: Scalar, spike: Bool[Array, ""]
) -> Guard:
  """The guard after a finite step; a spike does not enter the window."""
  at = guard.seen % WINDOW

  def note(ring: Float[Array, "n"], value: Scalar) -> Float[Array, "n"]:
    return jnp.where(spike, ring, ring.at[at].set(value))

  skipped = spike.astype(jnp.int32)
  return Guard(
    losses=note(guard.losses, loss),
    grad_norms=note(guard.grad_norms, grad_norm),
    seen=guard.seen + 1 - skipped,
    skipped=guard.skipped + skipped,
    skipped_in_a_row=(guard.skipped_in_a_row + skipped) * skipped,
  )


def all_finite(metrics: PyTree) -> Bool[Array, ""]:
  """Whether all numbers of a step are; its norms see every leaf."""
  found = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(metrics)]
  return jnp.stack(found).all()


def choose(
  new: TrainState,
  old: TrainState,
  *,
  finite: Bool[Array, ""],
  spike: Bool[Array, ""],
) -> TrainState:
  """`new`, or what a spike or a non-finite step leaves of it."""

  def keep(flag: Bool[Array, ""], a: PyTree, b: PyTree) -> PyTree:
    return jax.tree.map(lambda x, y: jnp.where(flag, x, y), a, b)

  held = old.replace(step=new.step, guard=new.guard)
  return keep(finite, keep(spike, held, new), old)


def check_finite(state: TrainState) -> None:
  """Raises NonFinite if any leaf of the state is not finite, by name."""
  found = jax.device_get(_finite(state))
  if bad := [name for name, fine in tree.flatten(found).items() if not fine]:
    raise errors.NonFinite(
      f"{len(bad)} leaves of the state are not finite, {', '.join(bad[:3])}"
      f" among them, at step {int(state.step)}; it is not saved. Lower the"
      " learning rate, and start from the last checkpoint."
    )


@jax.jit
def _finite(state: TrainState) -> PyTree:
  return jax.tree.map(lambda leaf: jnp.isfinite(leaf).all(), state)
