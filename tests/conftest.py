"""Before any test: eight CPU devices, strict shapes, a compilation cache."""

import os
import pathlib

# JAX reads these when it is imported, and so do programs that tests start.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
_CACHES = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
_FOLDER = pathlib.Path(_CACHES).expanduser() / "imagen_jax" / "jax_tests"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_FOLDER))
# With a cap on its size JAX locks the folder, so that workers may share it.
os.environ.setdefault("JAX_COMPILATION_CACHE_MAX_SIZE", str(2 << 30))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_configure(config: pytest.Config) -> None:
  # A run that was killed may leave half an entry; JAX then compiles anew.
  config.addinivalue_line(
    "filterwarnings",
    "ignore:Error (reading|writing) persistent compilation cache:UserWarning",
  )
