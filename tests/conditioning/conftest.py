import jax
import pytest


@pytest.fixture
def x64():
    """Float64 for the whole test."""
    with jax.enable_x64(True):
        yield
