"""Weights from a path: a working directory of ours, one of its checkpoints, or a published file."""

from __future__ import annotations

from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

from vdm_jax.config import differences
from vdm_jax.errors import UserError
from vdm_jax.methods.base import Method
from vdm_jax.training import checkpoints, workdir

# Fields that decide which parameters there are and what they mean.
_DECISIVE = (
    "method",
    "data.shape",
    "data.vocabulary",
    "model.",
    "schedule.kind",
    "schedule.gamma",
    "schedule.features",
    "schedule.num_timesteps",
    "schedule.beta",
    "schedule.sigma",
    "schedule.step_variance",
    "schedule.remaining",
    "schedule.t_min",
)
# A variance that is not learned, now or then.
_FIXED = ("model.variance: 'posterior'", "model.variance: 'beta'")


def load(path: str, config: ConfigDict, method: Method) -> tuple[Any, int]:
    """(params on one device, step they were saved at); UserError if they do not belong to the config."""
    location = epath.Path(path).expanduser()
    step = None
    if location.name == "checkpoints":
        location = location.parent
    elif location.name.isdigit() and location.parent.name == "checkpoints":
        location, step = location.parent.parent, int(location.name)
    if not workdir.exists(location):
        raise UserError(f"no weights at {path}; give a working directory, one of its checkpoints, or a published file")
    like = jax.eval_shape(method.init, jax.random.key(0))
    saved = workdir.saved_config(location) if location.is_dir() else None
    if saved is None:
        from vdm_jax.convert import formats

        return formats.load(path, config, like)
    harmless = ("model.cdf", "model.dropout", *(() if config.model.variance == "learned" else _FIXED))
    changed = [d for d in differences(saved, config) if d.startswith(_DECISIVE) and not d.startswith(harmless)]
    if changed:
        raise UserError(f"the weights in {path} belong to another model ({'; '.join(changed)})")
    which = "ema" if config.evaluation.weights == "ema" else "params"
    return checkpoints.restore_weights(location, which, like, step)
