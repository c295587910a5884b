"""Diffusion models in JAX and Flax that can be trusted and understood.

model = vdm_jax.load("runs/digits")
model.sample(16)
"""

from __future__ import annotations

from typing import Any

from vdm_jax.errors import UserError

__all__ = ["Model", "Pipeline", "UserError", "load"]


def __getattr__(name: str) -> Any:
    """`load`, `Model` and `Pipeline` on first use: the command line sets up devices before JAX is touched."""
    if name in ("load", "Model"):
        from vdm_jax import api

        return getattr(api, name)
    if name == "Pipeline":
        from vdm_jax import pipelines

        return pipelines.Pipeline
    raise AttributeError(f"module 'vdm_jax' has no attribute {name!r}")
