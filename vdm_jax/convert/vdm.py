"""Weights of google-research/vdm ↔ our parameters {'network': …, 'schedule': …}.

    state = read("checkpoint-final")                 # a file, prefix or directory, as in `clu.find`
    params = from_original(state["ema_params"])      # the EMA gives the published numbers

The original names every block (`down.block_0`, …); ours are stacked along a leading axis. The original's learned
schedules are b + |w| t and l1(t) + l3(tanh(½ l2(2t − 1)))/K with |kernels|, whose endpoints depend on all
weights; our endpoints are separate leaves.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from vdm_jax import config as configs
from vdm_jax.convert import clu
from vdm_jax.convert.vdm_layout import (
    Flat,
    Shapes,
    check_shapes,
    flatten,
    leaves,
    of_original,
    of_ours,
    schedule_shapes,
)
from vdm_jax.errors import UserError

Tree = dict[str, Any]

GROUPS = 32  # of every group norm of the original
FOURIER = (7, 8)  # the original's sin, cos(2π 2^k z), k = 6, 7, as exponents n of our 2ⁿπz


def read(path: str) -> Tree:
    """Read the train state at `path` as numpy arrays.

    A bare parameter tree is returned as {'params': tree}. The group norms of Flax before 0.3.6 have leaves of shape
    [1, 1, 1, C], which become [C].

    Args:
        path: As in `clu.find`.

    Returns:
        A dictionary with those of 'step', 'params' and 'ema_params' that the file has.

    Raises:
        UserError: There is no checkpoint, or it is not one of the original.
    """
    file = clu.find(path)
    if file is None:
        raise UserError(f"no published checkpoint at {path}; give its ckpt-N.flax or the directory that holds it")
    state = clu.restore(file)
    state = state if isinstance(state, dict) else {}
    if "score_model" in state:
        state = {"params": state}
    trees = {name: state[name] for name in ("params", "ema_params") if name in state}
    if not trees or not all(isinstance(t, dict) and "score_model" in t for t in trees.values()):
        held = ", ".join(sorted(map(str, state))[:5]) or "no dictionary"
        raise UserError(f"{file} holds {held}, not the weights of google-research/vdm (params/score_model/…)")
    step = np.asarray(state.get("step"))
    counted = {"step": int(step)} if step.ndim == 0 and step.dtype.kind in "iu" else {}
    return counted | {name: _without_unit_axes(tree) for name, tree in trees.items()}


def load(path: str, config: ConfigDict, like: Any) -> tuple[Tree, int]:
    """Load the EMA or raw weights at `path`, according to `evaluation.weights`.

    Args:
        path: As in `clu.find`.
        config: The config of the run.
        like: Shapes and dtypes of the params of the config's method.

    Returns:
        (our params on one device, step).

    Raises:
        UserError: As `read` and `from_original`; or the file lacks these weights, or a leaf does not fit `like`.
    """
    state = read(path)
    which = "ema_params" if config.evaluation.weights == "ema" else "params"
    if which not in state:
        have = "raw" if which == "ema_params" else "ema"
        raise UserError(f"{path} has no {which}; set config.evaluation.weights={have!r} to use the weights it has")
    params = from_original(state[which], dict(configs.flatten(config)))
    expected = {"/".join(k): v.shape for k, v in flatten_dict(like).items()}
    check_shapes(flatten(params), expected)
    params = jax.tree.map(lambda leaf, target: jnp.asarray(leaf, target.dtype), params, like)
    return params, state.get("step", 0)


def _without_unit_axes(tree: Tree) -> Tree:
    flat = flatten_dict(tree)
    for path, leaf in flat.items():
        in_norm = str(path[-2]).startswith("GroupNorm_") if len(path) > 1 else False
        if in_norm and getattr(leaf, "shape", ())[:-1] == (1, 1, 1):
            flat[path] = leaf.reshape(-1)
    return unflatten_dict(flat)


def describe(tree: Tree) -> dict[str, Any]:
    """Return the config fields that the original's tensors determine, with their values."""
    layout = of_original(flatten(tree))
    fields = {
        "model.network": "unet",
        "model.width": layout.width,
        "model.depth": layout.depth,
        "model.attention": layout.attention,
        "model.fourier": FOURIER if layout.fourier else (),
        "model.groups": GROUPS,
        "model.prediction": "eps",
        # not determined by any tensor, but fixed in the release
        "model.residual": "z",
        "model.fourier_damping": False,
        "schedule.kind": layout.schedule,
    }
    return fields | ({"schedule.features": layout.features} if layout.features else {})


def differences(tree: Tree, config: Mapping[str, Any]) -> list[str]:
    """List the fields that differ, as 'model.width: 128 in the weights, 256 in the config'.

    Args:
        tree: The original's parameter tree.
        config: 'section.field' → value, as returned by `config.flatten`; missing fields are not compared.
    """
    return [
        f"{name}: {value!r} in the weights, {config[name]!r} in the config"
        for name, value in describe(tree).items()
        if name in config and config[name] != value
    ]


def from_original(tree: Tree, config: Mapping[str, Any] | None = None) -> Tree:
    """Convert the original's params to ours, in the same dtype.

    Args:
        tree: The original's parameter tree.
        config: As in `differences`; if not None, it must describe the same model.

    Raises:
        UserError: Names the fields that differ, or the first leaf that is missing, unexpected or has the wrong shape.
    """
    if config is not None and (wrong := differences(tree, config)):
        raise UserError(
            f"the weights belong to another config ({'; '.join(wrong)}); use the config they were trained with"
        )
    flat = flatten(tree)
    layout = of_original(flat)
    table = leaves(layout)
    shapes = {name: leaf.shape for name, leaf in table.items()}
    check_shapes(flat, shapes | schedule_shapes(layout))

    single = {leaf.path: flat[name] for name, leaf in table.items() if leaf.layer is None}
    layers: dict[str, list[np.ndarray]] = {}
    for name, leaf in table.items():
        if leaf.layer is not None:
            layers.setdefault(leaf.path, []).append(flat[name])
    stacks = {path: np.stack(arrays) for path, arrays in layers.items()}
    return {
        "network": unflatten_dict(single | stacks, sep="/"),
        "schedule": _schedule_from(flat, layout.schedule),
    }


def to_original(params: Tree) -> Tree:
    """Convert our params to the original's, the inverse of `from_original`.

    The result is bit-exact except for a monotone network, whose endpoints are merged into the original's l1 and l3.
    Settings without tensors are not checked: the original's Fourier exponents are 7 and 8, and its empty schedule is
    linear.
    """
    flat, schedule = flatten(params["network"]), flatten(params["schedule"])
    layout = of_ours(flat, schedule)
    table = leaves(layout)
    shapes: Shapes = {}
    for leaf in table.values():  # the last layer of a stack sets its shape
        shapes[leaf.path] = leaf.shape if leaf.layer is None else (leaf.layer + 1, *leaf.shape)
    check_shapes(flat, shapes)
    tree = {
        name: flat[leaf.path] if leaf.layer is None else flat[leaf.path][leaf.layer] for name, leaf in table.items()
    }
    gamma = _schedule_to(schedule, layout.schedule)
    check_shapes(gamma, schedule_shapes(layout))
    return unflatten_dict(tree | gamma, sep="/")


def _schedule_from(flat: Flat, kind: str) -> Tree:
    """Convert the original's schedule to the leaves of the schedule section of methods.vdm."""
    if kind == "linear":
        return {}
    if kind == "learned_scalar":
        return {"gamma_0": flat["gamma/b"].reshape(()), "span": flat["gamma/w"].reshape(())}
    shape = {
        "skip": flat["gamma/l1/kernel"].reshape(()),
        "rate": flat["gamma/l2/kernel"].reshape(-1),
        "bias": flat["gamma/l2/bias"],
        "out": flat["gamma/l3/kernel"].reshape(-1),
    }
    start, end = _ends(shape)
    bias = flat["gamma/l1/bias"].reshape(())
    return {
        "gamma_0": np.asarray(bias + start, bias.dtype),
        "span": np.asarray(end - start, bias.dtype),
        "shape": shape,
    }


def _schedule_to(leaves: Flat, kind: str) -> Flat:
    if kind == "linear":
        return {}
    expected: Shapes = {"gamma_0": (), "span": ()}
    if kind == "learned_monotone":
        size = leaves["shape/out"].shape
        expected |= {"shape/skip": (), **{f"shape/{k}": size for k in ("rate", "bias", "out")}}
    check_shapes(leaves, expected)
    gamma_0, span = leaves["gamma_0"], leaves["span"]
    if kind == "learned_scalar":
        return {"gamma/w": span.reshape(1), "gamma/b": gamma_0.reshape(1)}
    shape = {name: leaves[f"shape/{name}"] for name in ("skip", "rate", "bias", "out")}
    start, end = _ends(shape)
    # γ₀ + |span| (N(t) − N(0)) / (N(1) − N(0)), written as one unnormalized network
    scale = np.abs(span) / (end - start)
    as_leaf = lambda value, *size: np.asarray(value, gamma_0.dtype).reshape(size)
    return {
        "gamma/l1/kernel": as_leaf(scale * shape["skip"], 1, 1),
        "gamma/l1/bias": as_leaf(gamma_0 - scale * start, 1),
        "gamma/l2/kernel": shape["rate"].reshape(1, -1),
        "gamma/l2/bias": shape["bias"],
        "gamma/l3/kernel": as_leaf(scale * shape["out"], -1, 1),
    }


def _ends(shape: Flat) -> tuple[np.ndarray, np.ndarray]:
    """Compute N(0) and N(1) of `schedules.Monotone` before normalization, always in float64."""
    skip, rate, bias, out = (np.asarray(shape[k], float) for k in ("skip", "rate", "bias", "out"))
    bend = lambda sign: np.mean(np.abs(out) * np.tanh(0.5 * (sign * np.abs(rate) + bias)))
    return bend(-1), np.abs(skip) + bend(1)
