"""Loading a model by its path."""

from __future__ import annotations

import os

from ml_collections import ConfigDict, FrozenConfigDict

from vdm_jax import config as configs
from vdm_jax import frozen, weights
from vdm_jax.api import programs
from vdm_jax.api.clip import ClipModel
from vdm_jax.api.model import Model
from vdm_jax.errors import UserError
from vdm_jax.runtime import backends, tokenizer, workdir


def load(path: str | os.PathLike[str], config: ConfigDict | str | None = None) -> Model | ClipModel:
    """Load a model: a `ClipModel` of a CLIP, a `Model` of everything else.

    Args:
      path: a working directory, one of its checkpoints, or a file of published weights.
      config: for weights without a config.json: a ConfigDict, or the name of a config with its variants, such as
        'configs/cifar10.py'.

    Raises:
      UserError: there is no config, the weights do not fit it, or JAX cannot start.
    """
    if not isinstance(path, str | os.PathLike):
        raise UserError(f"path={path!r} must be the path of a working directory, of a checkpoint or of weights")
    chosen = configs.load(config) if isinstance(config, str) else config
    if not isinstance(chosen, ConfigDict | None):
        raise UserError(f"config={config!r} must be a ConfigDict or a name, such as 'configs/cifar10.py'")
    path = os.fspath(path)
    if chosen is None:
        owner, _ = weights.place(path)
        if not workdir.exists(owner) or not path:
            raise UserError(
                f"there is nothing at {path!r}; pass a working directory, a checkpoint or a file of weights"
            )
        saved = workdir.saved_config(owner) if owner.is_dir() else None
        if saved is None:
            raise UserError(f"{path} holds no config.json; pass its config, e.g. config='configs/cifar10.py'")
        chosen = tokenizer.located(configs.from_saved(saved), owner)
    configs.check(chosen)
    backends.start()
    method = programs.method_of(FrozenConfigDict(chosen))
    params, step = weights.load(path, chosen, method)
    kind = ClipModel if chosen.method == "clip" else Model
    return kind(chosen, method, {**frozen.load_parts(method, training=False), **params}, step)
