"""Everything a run is, as one pytree: what is checkpointed and what a step maps to the next."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from vdm_jax.core.method import Method, Phase


class TrainState(NamedTuple):
    """step: steps done, int32. ema: average of params. opt_state: by phase. extra: of the method.

    window: sums of the metrics since the last logged step, so that a resumed run logs the same
    numbers. bad: steps in a row that were not applied. typical: running mean of the loss.
    """

    step: Array
    params: Any
    ema: Any
    opt_state: dict[str, Any]
    extra: Any
    window: dict[str, Array]
    bad: Array
    typical: Array


def trained(phase: Phase, params: Any) -> Any:
    """The subtrees a phase updates."""
    return {name: params[name] for name in phase.trains}


def init_state(
    method: Method,
    optimizers: dict[str, optax.GradientTransformation],
    metrics: dict[str, jax.ShapeDtypeStruct],
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
        extra=method.init_extra(params),
        window={name: jnp.zeros(like.shape, like.dtype) for name, like in metrics.items()},
        bad=jnp.zeros((), jnp.int32),
        typical=jnp.zeros(()),
    )


def num_parameters(tree: Any) -> int:
    """Number of scalars in a tree of arrays or shapes."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
