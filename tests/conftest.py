"""Two CPU devices, rank and dtype promotion refused, no GPU: set before JAX makes its backend.

What takes long to compile is kept for the other worker and for the processes that tests start, until the end.
"""

import os
import shutil
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Compiles in half the time; what it compiles is slower and rounds as well.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
# Workers are started with the environment of the process that starts them.
OWNED = "JAX_COMPILATION_CACHE_DIR" not in os.environ
if OWNED:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="vdm_jax_tests_")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"

import jax  # noqa: E402
import pytest  # noqa: E402

pytest_plugins = ["tests.buckets"]

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


def pytest_unconfigure() -> None:
    """The end of the process that made the cache."""
    if OWNED:
        shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)


@pytest.fixture
def key() -> jax.Array:
    return jax.random.key(0)
