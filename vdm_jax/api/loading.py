"""Loading a model by its path."""

from __future__ import annotations

from ml_collections import ConfigDict, FrozenConfigDict

from vdm_jax import config as configs
from vdm_jax import frozen, weights
from vdm_jax.api import programs
from vdm_jax.api.clip import ClipModel
from vdm_jax.api.model import Model
from vdm_jax.errors import UserError
from vdm_jax.runtime import backends, tokenizer, workdir


def load(path: str, config: ConfigDict | str | None = None) -> Model | ClipModel:
    """Load a model: a `ClipModel` of a CLIP, a `Model` of everything else.

    Args:
      path: a working directory, one of its checkpoints, or a file of published weights.
      config: for weights without a config.json: a ConfigDict, or the name of a config with its variants, such as
        'configs/cifar10.py'.

    Raises:
      UserError: there is no config, the weights do not fit it, or JAX cannot start.
    """
    chosen = configs.load(config) if isinstance(config, str) else config
    if chosen is None:
        owner, _ = weights.place(path)
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
