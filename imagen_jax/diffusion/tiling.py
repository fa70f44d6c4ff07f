"""A denoiser of one size as one of any larger size: tiles that overlap.

At each step z_t (and x_lr, at its own scale) is cut into tiles, the network
sees one tile after another, and what it says is laid together with weights that
sum to 1 (Bar-Tal et al. 2023, MultiDiffusion). Guidance, thresholding and the
step itself see the whole image, so there are no seams of theirs.

Memory is that of one tile. Along an edge with a neighbour the outermost quarter
of the overlap has no weight: a network that looks no further than that gives
what it would give for the whole. Ours look further (attention, the statistics
of GroupNorm), so a tiled image is another one, with no seams in it.

  z_t [b H W c], x_lr [b H/f W/f c] -> [b H W c']
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from imagen_jax.core import errors
from imagen_jax.core.arrays import Cond, Image, Logsnr
from imagen_jax.diffusion import losses


class Side(NamedTuple):
  """The tiles of a height or a width: where they begin, and their weights."""

  begins: tuple[int, ...]
  rows: Float[np.ndarray, "n t"]


def starts(size: int, tile: int, *, overlap: int, unit: int) -> tuple[int, ...]:
  """Where tiles of a side begin: as evenly as multiples of `unit` allow.

  Neighbours overlap by about `overlap` pixels or more.
  """
  if size <= tile:
    return (0,)
  if not 0 <= overlap < tile or (size - tile) % unit:
    raise errors.BadInput(
      f"tiles of {tile} with an overlap of {overlap} do not cover {size} pixels"
      f" in steps of {unit}; give an overlap below the tile, and sizes that are"
      f" multiples of {unit}."
    )
  count = -(-(size - tile) // (tile - overlap)) + 1
  even = np.linspace(0, (size - tile) // unit, count)
  return tuple(int(k) * unit for k in np.floor(even + 1e-9))


def weights(
  begins: tuple[int, ...], tile: int, size: int
) -> Float[np.ndarray, "n t"]:
  """The weight of each place of each tile of a side; over tiles they sum to 1.

  A linear ramp over the middle half of an overlap, 0 and 1 outside of it.
  """
  rows = np.ones((len(begins), min(tile, size)))
  for k in range(len(begins) - 1):
    overlap = begins[k] + tile - begins[k + 1]
    if overlap <= 0:
      continue
    rest = overlap // 4
    middle = overlap - 2 * rest
    ramp = (np.arange(middle) + 0.5) / middle
    up = np.concatenate([np.zeros(rest), ramp, np.ones(rest)])
    rows[k, tile - overlap :] *= 1.0 - up
    rows[k + 1, :overlap] *= up
  total = np.zeros(size)
  for begin, row in zip(begins, rows, strict=True):
    total[begin : begin + len(row)] += row
  for begin, row in zip(begins, rows, strict=True):
    row /= total[begin : begin + len(row)]
  return rows.astype(np.float32)


def _side(size: int, tile: int, overlap: int, unit: int) -> Side:
  begins = starts(size, tile, overlap=overlap, unit=unit)
  return Side(begins, weights(begins, tile, size))


def tiled(
  denoise_fn: losses.DenoiseFn, tile: int, *, overlap: int | None = None
) -> losses.DenoiseFn:
  """`denoise_fn` on tiles of `tile` pixels a side; overlap: a quarter of it."""
  overlap = tile // 4 if overlap is None else overlap

  def denoise(z_t: Image, logsnr: Logsnr, cond: Cond) -> Image:
    _, h, w, _ = z_t.shape
    if h <= tile and w <= tile:
      return denoise_fn(z_t, logsnr, cond)
    factor = h // cond["x_lr"].shape[1] if "x_lr" in cond else 1
    down, across = (_side(size, tile, overlap, factor) for size in (h, w))
    return _laid_together(denoise_fn, z_t, logsnr, cond, factor, down, across)

  return denoise


def _laid_together(
  denoise_fn: losses.DenoiseFn,
  z_t: Image,
  logsnr: Logsnr,
  cond: Cond,
  factor: int,
  down: Side,
  across: Side,
) -> Float[Array, "b h w c2"]:
  """One tile after another, in one scan."""
  (ys, rows), (xs, columns) = down, across
  place = np.stack(np.meshgrid(ys, xs, indexing="ij"), -1).reshape(-1, 2)
  share = jnp.einsum("ia,jb->ijab", rows, columns)
  share = share.reshape(-1, rows.shape[1], columns.shape[1])

  def one(begin: Int[Array, "2"]) -> Image:
    parts = dict(cond)
    if "x_lr" in cond:
      parts["x_lr"] = _cut(cond["x_lr"], begin // factor, share, factor)
    return denoise_fn(_cut(z_t, begin, share, 1), logsnr, parts)

  def body(total: Array, tile: tuple[Array, Array]) -> tuple[Array, None]:
    begin, weight = tile
    part = one(begin) * weight[None, :, :, None]
    at = (0, begin[0], begin[1], 0)
    before = jax.lax.dynamic_slice(total, at, part.shape)
    return jax.lax.dynamic_update_slice(total, before + part, at), None

  out = jax.eval_shape(one, jax.ShapeDtypeStruct((2,), jnp.int32))
  total = jnp.zeros((*z_t.shape[:3], out.shape[3]), jnp.float32)
  begins = jnp.asarray(place, jnp.int32)
  return jax.lax.scan(body, total, (begins, share))[0]


def _cut(
  x: Image, begin: Int[Array, "2"], share: Float[Array, "n t u"], factor: int
) -> Float[Array, "b t2 u2 c"]:
  """The part of x under a tile, where x is `factor` times smaller."""
  b, c = x.shape[0], x.shape[3]
  h, w = share.shape[1] // factor, share.shape[2] // factor
  return jax.lax.dynamic_slice(x, (0, begin[0], begin[1], 0), (b, h, w, c))
