"""The layers once more, in float64 numpy, from the equations alone.

`params` are the dicts of the layer's own parameters.
"""

import math

import numpy as np


def swish(x):
  return x / (1 + np.exp(-x))


def gelu(x):
  return x * (1 + np.vectorize(math.erf)(x / np.sqrt(2))) / 2


def dense(params, x):
  return x @ np.float64(params["kernel"]) + np.float64(params["bias"])


def mlp(params, x):
  return dense(params["dense_1"], swish(dense(params["dense_0"], x)))


def conv(params, x):
  """Stride 1, zeros outside the image."""
  kernel = np.float64(params["kernel"])
  kh, kw, _, co = kernel.shape
  b, h, w, _ = x.shape
  y, z = kh // 2, kw // 2
  padded = np.pad(x, ((0, 0), (y, y), (z, z), (0, 0)))
  out = np.zeros((b, h, w, co))
  for p in range(kh):
    for q in range(kw):
      out += padded[:, p : p + h, q : q + w] @ kernel[p, q]
  return out + np.float64(params["bias"])


def layer_norm(params, x, epsilon=1e-6):
  mean = x.mean(axis=-1, keepdims=True)
  y = (x - mean) / np.sqrt(x.var(axis=-1, keepdims=True) + epsilon)
  return y * np.float64(params["scale"]) + np.float64(params["bias"])


def group_norm(params, x, groups, scale_shift=None):
  b, h, w, c = x.shape
  split = x.reshape(b, h * w, groups, c // groups)
  mean = split.mean(axis=(1, 3), keepdims=True)
  variance = split.var(axis=(1, 3), keepdims=True)
  y = ((split - mean) / np.sqrt(variance + 1e-6)).reshape(x.shape)
  y = y * np.float64(params["scale"]) + np.float64(params["bias"])
  if scale_shift is None:
    return y
  scale, shift = np.split(scale_shift[:, None, None], 2, axis=-1)
  return y * (1 + scale) + shift


def attention(query, key, value, mask):
  """[b q n k], two [b s n k], [b s] -> [b q n k]; every row has a source."""
  logits = np.einsum("bqnk,bsnk->bnqs", query, key) / query.shape[-1] ** 0.5
  logits = np.where(mask[:, None, None], logits, -np.inf)
  weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
  weights /= weights.sum(axis=-1, keepdims=True)
  return np.einsum("bnqs,bsnk->bqnk", weights, value)
