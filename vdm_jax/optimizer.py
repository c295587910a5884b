"""Optimizers: AdamW or Muon for networks, and Adam for the parameters of a learned noise schedule."""

from __future__ import annotations

from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax
from jax import Array
from ml_collections import ConfigDict

from vdm_jax.common_fields import EVALUATED
from vdm_jax.fields import Component, Field

_NAME = Field(
    "adamw", "optimizer of the network: AdamW, or Muon with AdamW for the first and last layers", ("adamw", "muon")
)
COMPONENTS = (
    Component({"optimizer.name": _NAME}, {"method": EVALUATED}),
    Component({"optimizer.name": _NAME._replace(choices=("adamw",))}, {"method": ("ddgan",)}),
    Component(
        {
            "optimizer.learning_rate": Field(2e-4, "peak learning rate of AdamW", low=0.0),
            "optimizer.warmup_steps": Field(100, "number of linear warm-up steps", low=0),
            "optimizer.decay": Field(
                "constant",
                "learning rate schedule after the warm-up, until training.num_steps",
                ("constant", "cosine", "linear"),
            ),
            "optimizer.b1": Field(0.9, "Adam beta 1", low=0.0, high=0.9999),
            "optimizer.b2": Field(0.99, "Adam beta 2", low=0.0, high=0.99999),
            "optimizer.eps": Field(1e-8, "Adam epsilon", low=0.0),
            "optimizer.weight_decay": Field(
                0.01, "decoupled weight decay of kernels; with Muon only of the kernels that it updates", low=0.0
            ),
            "optimizer.clip": Field(1.0, "largest global norm of the network's gradient; 0 for no clipping", low=0.0),
            "optimizer.ema": Field(
                0.9999, "decay of the averaged weights, with warm-up (1 + n)/(10 + n)", low=0.0, high=0.999999
            ),
        }
    ),
    Component(
        {
            "optimizer.muon_learning_rate": Field(
                1e-3, "peak learning rate of Muon, whose updates have the scale of Adam's", low=0.0
            )
        },
        {"optimizer.name": ("muon",)},
    ),
    Component(
        {"optimizer.final_learning_rate": Field(0.0, "final learning rate of the decay", low=0.0)},
        {"optimizer.decay": ("cosine", "linear")},
    ),
    Component(
        {
            "optimizer.schedule_learning_rate": Field(
                0.0, "peak learning rate of the noise schedule; 0 for optimizer.learning_rate", low=0.0
            )
        },
        {"schedule.kind": ("learned_scalar", "learned_monotone")},
    ),
)


def learning_rate(config: ConfigDict, peak: float) -> optax.Schedule:
    """Return the learning rate schedule: linear warm-up to `peak`, then `optimizer.decay`.

    The decay is constant, or a half cosine or linear decay to `optimizer.final_learning_rate` at training.num_steps.
    """
    section = config.optimizer
    warmup, last = section.warmup_steps, min(section.get("final_learning_rate", 0.0), peak)
    ramp = optax.linear_schedule(0.0, peak, warmup) if warmup else optax.constant_schedule(peak)
    rest = max(config.training.num_steps - warmup, 1)
    after = {
        "constant": optax.constant_schedule(peak),
        "cosine": optax.cosine_decay_schedule(peak, rest, last / peak if peak else 0.0),
        "linear": optax.linear_schedule(peak, last, rest),
    }[section.decay]
    return optax.join_schedules([ramp, after], [warmup])


def decay_mask(params: Any, names: tuple[str, ...]) -> Any:
    """Return the mask of weight decay: True for parameters with one of the names, such as 'kernel'.

    The mask depends on names, because the parameters of scanned blocks have a leading axis of depth and so their rank
    does not distinguish kernels from biases.
    """
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key in names, params)


# Layers next to the data or the time input; Adam updates their kernels even with Muon.
_EDGES = ("conv_in", "conv_out", "dense0", "dense_in", "dense_out")


def muon_dimensions(params: Any) -> Any:
    """Return how Muon interprets each kernel as matrices [inputs, outputs]; None for parameters that Adam updates.

    A convolution is a matrix with height · width · inputs rows and outputs columns. The leading axis of scanned blocks
    is a batch of matrices.
    """

    def dimensions(path: Any, leaf: Any) -> optax.contrib.MuonDimensionNumbers | None:
        names = [entry.key for entry in path]
        if names[-1] != "kernel" or names[-2] in _EDGES:
            return None
        inputs = 3 if names[-2].startswith("conv") else 1
        return optax.contrib.MuonDimensionNumbers(tuple(range(leaf.ndim - 1 - inputs, leaf.ndim - 1)), leaf.ndim - 1)

    return jax.tree_util.tree_map_with_path(dimensions, params)


def _network(config: ConfigDict, peak: float, decayed: tuple[str, ...]) -> optax.GradientTransformation:
    """Return the optimizer of a network, without clipping."""
    section = config.optimizer
    rate = learning_rate(config, peak)
    decay = section.weight_decay
    if section.name == "adamw":
        mask = lambda params: decay_mask(params, decayed)
        return optax.adamw(rate, section.b1, section.b2, section.eps, weight_decay=decay, mask=mask)
    # Biases, norms, and the first and last layers use Adam with Nesterov momentum and no weight decay.
    # consistent_rms gives updates of Adam's scale for any shape (Liu et al. 2025, arXiv:2502.16982).
    return optax.contrib.muon(
        learning_rate(config, section.muon_learning_rate),
        weight_decay=decay,
        eps=section.eps,
        consistent_rms=0.2,
        adam_b1=section.b1,
        adam_b2=section.b2,
        adam_learning_rate=rate,
        muon_weight_dimension_numbers=muon_dimensions,
    )


def optimizer(
    config: ConfigDict, rate_of: str = "learning_rate", decayed: tuple[str, ...] = ("kernel",)
) -> optax.GradientTransformation:
    """Return the optimizer for the parameters of a phase.

    The subtree 'schedule' uses Adam without weight decay and clipping. All other subtrees are networks.

    Args:
        config: The config.
        rate_of: The field of `config.optimizer` with the peak learning rate of the networks; if its value is 0,
            learning_rate is used.
        decayed: The names of the parameters that weight decay applies to; Muon decays only what it updates.
    """
    section = config.optimizer
    peak = section[rate_of] or section.learning_rate
    clip = optax.clip_by_global_norm(section.clip) if section.clip else optax.identity()
    rate = section.get("schedule_learning_rate", 0.0) or section.learning_rate
    schedule = optax.adam(learning_rate(config, rate), section.b1, section.b2, section.eps)
    labels = lambda params: {name: "schedule" if name == "schedule" else "network" for name in params}
    parts = {"network": optax.chain(clip, _network(config, peak, decayed)), "schedule": schedule}
    return promoting(optax.multi_transform(parts, labels))


def promoting(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """Return `inner`, updated under JAX's standard dtype promotion, whatever `jax_numpy_dtype_promotion` is.

    optax multiplies its integer count of steps by floats, which strict promotion refuses.
    """

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        with jax.numpy_dtype_promotion("standard"):
            return inner.update(updates, state, params)

    return optax.GradientTransformation(inner.init, update)


def ema_update(ema: Any, params: Any, step: Array, decay: float) -> Any:
    """Return ema + (1 − d)(params − ema) with d = min(decay, (1 + n)/(10 + n)) after step n.

    The warm-up makes the average usable in short runs: with a decay of 0.9999 alone, it would still be close to the
    initial network after 900 steps.
    """
    chex.assert_trees_all_equal_shapes(ema, params)
    n = jnp.asarray(step, jnp.result_type(float))
    d = jnp.minimum(decay, (1.0 + n) / (10.0 + n))
    return jax.tree.map(lambda average, new: average + (1 - d).astype(new.dtype) * (new - average), ema, params)


def ema_steps(step: int, decay: float) -> float:
    """Return 1/(1 − d) for the d of `ema_update` at the last of `step` steps: about how many steps an average spans."""
    return 1 / (1 - min(decay, step / (9 + step)))
