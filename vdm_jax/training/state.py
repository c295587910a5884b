"""Everything a run is, as one pytree: what is checkpointed and what a step maps to the next."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from vdm_jax.methods.base import Method, Phase


class TrainState(NamedTuple):
    """step: steps done, int32. ema: average of params. opt_state: by phase. extra: of the method.

    window: sums of the metrics since the last logged step, so that a resumed run logs the same
    numbers. bad_step: the first step whose loss or gradient was not finite, −1 if none.
    """

    step: Array
    params: Any
    ema: Any
    opt_state: dict[str, Any]
    extra: Any
    window: dict[str, Array]
    bad_step: Array


def trained(phase: Phase, params: Any) -> Any:
    """The subtrees a phase updates."""
    return {name: params[name] for name in phase.trains}


def init_state(
    method: Method,
    optimizers: dict[str, optax.GradientTransformation],
    metric_names: tuple[str, ...],
    seed: int,
) -> TrainState:
    """The state before the first step; pure, to be run under jit or eval_shape."""
    params = method.init(jax.random.fold_in(jax.random.key(seed), 0))
    # A weakly typed leaf (jnp.full and Python numbers make them) would compile the step again.
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, leaf.dtype), params)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema=jax.tree.map(jnp.copy, params),
        opt_state={p.name: optimizers[p.name].init(trained(p, params)) for p in method.phases},
        extra=method.init_extra(),
        window={name: jnp.zeros(()) for name in metric_names},
        bad_step=jnp.full((), -1, jnp.int32),
    )


def num_parameters(tree: Any) -> int:
    """Number of scalars in a tree of arrays or shapes."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
