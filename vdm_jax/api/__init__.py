"""Trained models in a notebook: `model = vdm_jax.load(path)`."""

from __future__ import annotations

from ml_collections import ConfigDict

from vdm_jax.api.loading import load
from vdm_jax.api.model import Labels, Model, Weights

__all__ = ["ConfigDict", "Labels", "Model", "Weights", "load"]
