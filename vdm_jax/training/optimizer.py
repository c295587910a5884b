"""AdamW as the `optimizer` section describes it, one chain for the network, one for the schedule."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from ml_collections import ConfigDict


def learning_rate(config: ConfigDict, peak: float) -> optax.Schedule:
    """Linear warm-up to `peak`, then constant or a half cosine down to 0 at training.num_steps."""
    section = config.optimizer
    warmup = section.warmup_steps
    ramp = optax.linear_schedule(0.0, peak, warmup) if warmup else optax.constant_schedule(peak)
    if section.decay == "cosine":
        after = optax.cosine_decay_schedule(peak, max(config.training.num_steps - warmup, 1))
    else:
        after = optax.constant_schedule(peak)
    return optax.join_schedules([ramp, after], [warmup])


def _is_kernel(params: Any) -> Any:
    """Weight decay is for kernels: not for biases, scales of norms, or anything of rank below 2.

    Names decide, because the parameters of scanned blocks carry a leading axis of depth.
    """
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """For a tree {'network': …, 'schedule': …}: schedule leaves are outside decay and clipping."""
    section = config.optimizer
    clip = optax.clip_by_global_norm(section.clip) if section.clip else optax.identity()
    network = optax.chain(
        clip,
        optax.adamw(
            learning_rate(config, section.learning_rate),
            b1=section.b1,
            b2=section.b2,
            eps=section.eps,
            weight_decay=section.weight_decay,
            mask=_is_kernel,
        ),
    )
    rate = section.schedule_learning_rate or section.learning_rate
    schedule = optax.adam(learning_rate(config, rate), section.b1, section.b2, section.eps)
    labels = lambda params: {name: "schedule" if name == "schedule" else "network" for name in params}
    return optax.multi_transform({"network": network, "schedule": schedule}, labels)


def ema_update(ema: Any, params: Any, step: Array, decay: float) -> Any:
    """ema + (1 − d)(params − ema) with d = min(decay, (1 + n)/(10 + n)) after step n.

    The warm-up lets short runs use the average: at a decay of .9999 it would still be the initial
    network after 900 steps.
    """
    d = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda average, new: average + (1 - d).astype(new.dtype) * (new - average), ema, params)
