"""Two steps of a teacher as one of its student."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.core import errors
from imagen_jax.diffusion import distillation, process, schedules, steps

SHAPE = (4, 4, 4, 3)
STEPS = 4


def gaussian(mean: float = 0.2, std: float = 0.5):
  """The exact E[x0 | z_t] where x0 ~ N(mean, std^2), by hand."""

  def predict(z_t, logsnr):
    alpha, sigma = schedules.logsnr_to_alpha_sigma(logsnr)
    alpha, sigma = (x.reshape(-1, 1, 1, 1) for x in (alpha, sigma))
    gain = alpha * std**2 / (alpha**2 * std**2 + sigma**2)
    return mean + gain * (z_t - alpha * mean)

  return predict


def draw(seed: int) -> jax.Array:
  return jnp.asarray(np.random.default_rng(seed).normal(size=SHAPE), float)


def teach(predict, z_t, i):
  return distillation.target(
    predict,
    z_t,
    jnp.asarray(i, jnp.int32),
    student_steps=STEPS,
    schedule=schedules.cosine_logsnr,
  )


def test_one_step_of_the_student_ends_where_two_of_the_teacher_do(x64):
  z_t, i = draw(0), np.array([1, 2, 3, 4])
  target = teach(gaussian(), z_t, i)
  # Again in numpy, from z = alpha x0 + sigma eps alone.
  t, m, s = (i - back for back in (0.0, 0.5, 1.0))
  z = np.asarray(z_t)
  for here, there in ((t, m), (m, s)):
    x0 = np.asarray(gaussian()(jnp.asarray(z), level(here)))
    z = move(z, x0, here, there)
  actual = move(np.asarray(z_t), np.asarray(target), t, s)
  np.testing.assert_allclose(actual[1:], z[1:], rtol=0, atol=1e-12)
  # The last step of all gives x0 itself.
  np.testing.assert_allclose(target[0], x0[0], rtol=0, atol=1e-12)


def level(i: np.ndarray) -> jax.Array:
  return schedules.cosine_logsnr(jnp.asarray(i / STEPS, float))


def move(z, x0, here, there):
  """DDIM: the eps that x0 implies, kept."""
  (alpha, sigma), (alpha_s, sigma_s) = (
    [np.asarray(x).reshape(-1, 1, 1, 1) for x in pair]
    for pair in (
      schedules.logsnr_to_alpha_sigma(level(at)) for at in (here, there)
    )
  )
  return alpha_s * x0 + sigma_s * (z - alpha * x0) / sigma


def test_a_teacher_that_knows_x0_teaches_x0(x64):
  x0 = jnp.tanh(draw(1))
  i = np.array([1, 2, 3, 4])
  z_t = process.q_sample(x0, level(i), draw(2))
  target = teach(lambda *_: x0, z_t, i)
  np.testing.assert_allclose(target, x0, rtol=0, atol=1e-12)


def test_students_that_match_halve_the_steps_without_a_trace(x64):
  """A student that outputs the target samples as its teacher does."""

  def student(z, i):
    return teach(gaussian(), z, np.full(4, i))

  z = coarse = draw(3)
  for i in range(STEPS, 0, -1):
    for here in (i, i - 0.5):
      there = np.full(4, here - 0.5)
      x0 = gaussian()(z, level(np.full(4, here)))
      last = z = steps.ddim(z, x0, level(np.full(4, here)), level(there))
    given = student(coarse, i)
    coarse = steps.ddim(
      coarse, given, level(np.full(4, i)), level(np.full(4, i - 1.0))
    )
  np.testing.assert_allclose(given, x0, rtol=0, atol=1e-10)
  assert last.shape == SHAPE


def loss_of(scale, w=1.0):
  """The loss of a student that outputs scale * z_t, and its gradient."""
  cond = {"text_emb": jnp.ones((4, 2, 3)), "text_mask": jnp.ones((4, 2), bool)}

  def denoise(z_t, logsnr, cond):
    text = cond["text_emb"].mean(axis=(1, 2)).reshape(-1, 1, 1, 1)
    return 0.1 * z_t * scale + 0.2 * text * scale

  def mean(scale_of_teacher, scale):
    predict = distillation.x0_fn(
      lambda z, level, c: denoise(z, level, c) * scale_of_teacher,
      cond,
      distillation.Teacher(8, w),
      prediction="x0",
    )
    return distillation.loss(
      lambda z, level, c: denoise(z, level, c) * scale,
      predict,
      jnp.asarray(np.random.default_rng(4).normal(size=SHAPE), jnp.float32),
      cond,
      jax.random.key(0),
      student_steps=4,
      schedule=schedules.cosine_logsnr,
      prediction="x0",
    ).per_example.mean()

  return jax.jit(jax.value_and_grad(mean, argnums=(0, 1)))(1.0, scale)


def test_no_gradient_reaches_the_teacher():
  value, (of_teacher, of_student) = loss_of(0.7)
  assert value > 0 and of_teacher == 0 and of_student != 0


def test_a_guided_teacher_is_another_teacher():
  assert loss_of(0.7, w=3.0)[0] != pytest.approx(loss_of(0.7)[0])


def test_the_guided_x0_is_equation_2_thresholded():
  cond = {"text_emb": jnp.ones((4, 2, 3)), "text_mask": jnp.ones((4, 2), bool)}

  def denoise(z_t, logsnr, cond):
    text = cond["text_emb"].mean(axis=(1, 2)).reshape(-1, 1, 1, 1)
    return jnp.broadcast_to(text, z_t.shape)

  teacher = distillation.Teacher(8, 0.25, "static")
  predict = distillation.x0_fn(denoise, cond, teacher, prediction="x0")
  z_t, logsnr = jnp.zeros(SHAPE), jnp.zeros(4)
  np.testing.assert_allclose(predict(z_t, logsnr), 0.25, atol=1e-6)
  teacher = distillation.Teacher(8, 3.0, "static")
  predict = distillation.x0_fn(denoise, cond, teacher, prediction="x0")
  np.testing.assert_allclose(predict(z_t, logsnr), 1.0, atol=1e-6)


@pytest.mark.parametrize(
  ("fields", "says"),
  [
    ({"steps": 7}, "steps are 7; .* an even number"),
    ({"steps": 0}, "steps are 0"),
    ({"guidance_weight": float("nan")}, "guidance_weight is nan"),
    ({"percentile": 0.0}, "percentile is 0"),
  ],
)
def test_a_teacher_that_cannot_teach_is_refused(fields, says):
  with pytest.raises(errors.BadInput, match=says):
    distillation.check(distillation.Teacher(**fields))
