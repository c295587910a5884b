"""Training and measuring a small CLIP of a row."""

from __future__ import annotations

from typing import Any

from etils import epath
from ml_collections import ConfigDict

from experiments import models
from experiments.common import Measured
from vdm_jax.evaluation import report
from vdm_jax.runtime import tokenizer


def trained(config: ConfigDict, workdir: epath.Path) -> models.Model:
    """Train the model of a config with the tokenizer of its own directory, or load it."""
    return models.trained(tokenizer.located(config, models.directory_of(config, workdir)), workdir)


def retrieval(model: models.Model, **fields: Any) -> dict[str, Any]:
    """Return the entry 'retrieval' of an evaluation with changed config fields, by their last names."""
    names = {"name": "data.name"}
    changes = {names.get(name, f"evaluation.{name}"): value for name, value in fields.items()}
    path = {"data.tokenizer_path": model.config.data.tokenizer_path}
    config = models.with_fields(model.config, changes | path)
    method = models.methods.build(config)
    found: dict[str, Any] = report.evaluate(config, method, model.params, model.mesh, 0, "ema")["retrieval"]
    return found


def measured(entry: dict[str, Any], name: str) -> Measured:
    """Return one recall with its standard error."""
    return Measured(entry[name], entry[f"{name}_standard_error"], entry["draws"] * entry["candidates"])
