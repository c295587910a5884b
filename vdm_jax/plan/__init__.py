"""Estimate the cost of a config on a TPU slice, without a TPU: `run(config, directory, topology, what)`."""

from __future__ import annotations

from vdm_jax.plan.report import run

__all__ = ["run"]
