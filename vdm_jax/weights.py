"""Load weights from a working directory, one of its checkpoints, or a published file."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from ml_collections import ConfigDict

from vdm_jax import config as configs
from vdm_jax import methods
from vdm_jax.config import differences
from vdm_jax.convert import formats, torch_wrapped
from vdm_jax.core.method import Method
from vdm_jax.errors import UserError
from vdm_jax.runtime import checkpoints, workdir

CLASSES = "classes"  # name of a network's class embeddings among its parameters
# Differences between variances that are not learned, which do not change the model.
_FIXED = ("model.variance: 'posterior'", "model.variance: 'beta'")


def place(path: str) -> tuple[epath.Path, int | None]:
    """Resolve a path to weights.

    Returns:
        (working directory or published file, step of the checkpoint in the path or None).
    """
    location = epath.Path(path).expanduser()
    if location.name == "checkpoints" and not workdir.exists(location / "config.json"):  # else it is a run's own name
        return location.parent, None
    if location.name.isdigit() and location.parent.name == "checkpoints":
        return location.parent.parent, int(location.name)
    return location, None


def saved_config(path: str) -> Any:
    """Return the saved config of the working directory of a path, or None for published files."""
    location, _ = place(path)
    return workdir.saved_config(location) if location.is_dir() else None


def load(path: str, config: ConfigDict, method: Method) -> tuple[Any, int]:
    """Load the weights at a path, EMA or raw according to `evaluation.weights`.

    Args:
        path: A working directory, one of its checkpoints, or a published file.
        config: The config of the run.
        method: The method of the config.

    Returns:
        (params on one device, the step at which they were saved).

    Raises:
        UserError: There are no weights at the path, or they do not belong to the config.
    """
    location, step = place(path)
    if not workdir.exists(location) and not formats.is_prefix(path):
        raise UserError(f"no weights at {path}; give a working directory, one of its checkpoints, or a published file")
    like = jax.eval_shape(method.init, jax.random.key(0))
    saved = saved_config(path)
    if saved is None:
        return formats.load(path, config, like)
    fixed = () if configs.value(config, "model.variance", "posterior") == "learned" else _FIXED
    changed = [d for d in differences(saved, config) if _decides(d, config) and not d.startswith(fixed)]
    if changed:
        raise UserError(f"the weights in {path} belong to another model ({configs.brief(changed)})")
    which = "ema" if config.evaluation.weights == "ema" else "params"
    return checkpoints.restore_weights(location, which, like, step)


def _decides(difference: str, config: ConfigDict) -> bool:
    """Return True if the field of a difference changes the model, or is unknown."""
    field = configs.active(dict(configs.flatten(config))).get(difference.partition(": ")[0])
    return field is None or field.decisive


def to_start_from(path: str, config: ConfigDict, method: Method) -> tuple[Any, str]:
    """Load weights to initialize a training run, allowing a different number of classes.

    If the classes of the weights differ from those of the config, the class embeddings are initialized as in a new
    network, or only that of the null class if the null class is the only difference. All other params are from `path`.

    Args:
        path: As in `load`.
        config: The config of the new run.
        method: The method of the config.

    Returns:
        (params, a sentence for the log that names the params that are not from `path`, or '').

    Raises:
        UserError: As `load`.
    """
    theirs, ours = _classes_of(path, config), _known(config)
    if theirs is None or theirs == ours:
        params, _ = load(path, config, method)
        missing = sorted({name for phase in method.phases for name in phase.trains} - params.keys())
        return params, f"{path} has no {' and no '.join(missing)}; it is initialized from scratch" if missing else ""
    null = {"model.null_class": theirs[1]} if theirs[0] else {}
    other = configs.choose(ConfigDict(config.to_dict()), {"model.num_classes": theirs[0], **null})
    params, _ = load(path, other, methods.build(other))
    network = dict(params["network"])
    known = network.pop(CLASSES, None)
    only_null = theirs == (ours[0], False) and ours[0] > 0
    if sum(ours):
        new = jax.jit(lambda: method.init(jax.random.key(config.training.seed))["network"][CLASSES])()
        extend = lambda old, new: jnp.concatenate([old, new[-1:]])
        network[CLASSES] = jax.tree.map(extend, known, new) if only_null else new
    words = lambda classes: f"{classes[0]} classes{' and the null class' if classes[1] else ''}"
    reset = "the embedding of the null class is" if only_null else f"the embeddings of {words(ours)} are"
    return {**params, "network": network}, f"{path} has {words(theirs)}; {reset} initialized from scratch"


def _known(config: ConfigDict) -> tuple[int, bool]:
    """Return (number of classes, True with a null class) of a config."""
    return configs.value(config, "model.num_classes", 0), bool(configs.value(config, "model.null_class", False))


def _classes_of(path: str, config: ConfigDict) -> tuple[int, bool] | None:
    """Return (number of classes, True with a null class) of the weights at a path.

    The result is None if the number of classes is not known: for another method, or for a method or a format without
    classes.
    """
    if config.method not in ("vdm", "ddpm", "sde"):
        return None
    if (saved := saved_config(path)) is not None:
        model = saved["model"]
        if saved["method"] != config.method:
            return None
        return model.get("num_classes", 0), bool(model.get("null_class", False))
    if not place(path)[0].exists() or formats.sniff(path) not in ("torch_zip", "safetensors"):
        return None
    names = torch_wrapped.read(path, config.evaluation.weights)
    return (len(names["label_emb.weight"]) if "label_emb.weight" in names else 0), False
