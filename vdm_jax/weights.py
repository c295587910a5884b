"""Weights from a path: a working directory of ours, one of its checkpoints, or a published file."""

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

CLASSES = "classes"  # what a network calls the vectors of its labels
# A variance that is not learned, now or then.
_FIXED = ("model.variance: 'posterior'", "model.variance: 'beta'")


def place(path: str) -> tuple[epath.Path, int | None]:
    """(working directory or published file, the step of one of its checkpoints) that a path means."""
    location = epath.Path(path).expanduser()
    if location.name == "checkpoints":
        return location.parent, None
    if location.name.isdigit() and location.parent.name == "checkpoints":
        return location.parent.parent, int(location.name)
    return location, None


def saved_config(path: str) -> Any:
    """What a working directory at a path, or of a checkpoint there, says of its model; None for published files."""
    location, _ = place(path)
    return workdir.saved_config(location) if location.is_dir() else None


def load(path: str, config: ConfigDict, method: Method) -> tuple[Any, int]:
    """(params on one device, step they were saved at); UserError if they do not belong to the config."""
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
        raise UserError(f"the weights in {path} belong to another model ({'; '.join(changed)})")
    which = "ema" if config.evaluation.weights == "ema" else "params"
    return checkpoints.restore_weights(location, which, like, step)


def _decides(difference: str, config: ConfigDict) -> bool:
    """Whether what weights mean depends on a field that differs; it may on one that is unknown."""
    field = configs.active(dict(configs.flatten(config))).get(difference.partition(": ")[0])
    return field is None or field.decisive


def to_start_from(path: str, config: ConfigDict, method: Method) -> tuple[Any, str]:
    """(params for a new run, a sentence if they are not all from `path`).

    As `load`, but the labels may be others: then the vectors of classes start as those of a new network do (the null
    class's alone, where it is all that is new), and the rest is from `path`.
    """
    theirs, ours = _classes_of(path, config), _known(config)
    if theirs is None or theirs == ours:
        params, _ = load(path, config, method)
        missing = sorted({name for phase in method.phases for name in phase.trains} - params.keys())
        return params, f"{path} holds no {' and no '.join(missing)}, which starts anew" if missing else ""
    null = {"model.null_class": theirs[1]} if theirs[0] else {}
    other = configs.choose(ConfigDict(config.to_dict()), {"model.num_classes": theirs[0], **null})
    params, _ = load(path, other, methods.build(other))
    network = dict(params["network"])
    known = network.pop(CLASSES, None)
    only_null = theirs == (ours[0], False) and ours[0] > 0
    if sum(ours):
        new = jax.jit(lambda: method.init(jax.random.key(config.training.seed))["network"][CLASSES])()
        beside = lambda old, new: jnp.concatenate([old, new[-1:]])
        network[CLASSES] = jax.tree.map(beside, known, new) if only_null else new
    told = lambda classes: f"{classes[0]} labels{' and none' if classes[1] else ''}"
    anew = "that of none starts" if only_null else f"the vectors of {told(ours)} start"
    return {**params, "network": network}, f"{path} knows {told(theirs)}; {anew} anew"


def _known(config: ConfigDict) -> tuple[int, bool]:
    """(labels, whether there is a null class) of a config."""
    return configs.value(config, "model.num_classes", 0), bool(configs.value(config, "model.null_class", False))


def _classes_of(path: str, config: ConfigDict) -> tuple[int, bool] | None:
    """(labels, whether there is a null class) of the weights at a path; None where none can be told from the others:
    of another method, or a method or a format that knows no labels."""
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
