"""The train state: the pytree that a step updates and a checkpoint stores."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from vdm_jax.core.method import Method, Phase


class TrainState(NamedTuple):
    """The state of a run.

    Attributes:
      step: the number of completed steps, int32.
      params: the trained parameters.
      ema: the exponential moving average of params.
      opt_state: the optimizer state of each phase.
      extra: additional state of the method.
      window: sums of the metrics since the last log line, so that a resumed run logs the same numbers.
      bad: the number of consecutive steps that were not applied.
      typical: the running mean of the loss.
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
    """Return the subtrees of params that a phase trains."""
    return {name: params[name] for name in phase.trains}


def init_state(
    method: Method,
    optimizers: dict[str, optax.GradientTransformation],
    metrics: dict[str, jax.ShapeDtypeStruct],
    seed: int,
) -> TrainState:
    """Return the state before the first step; pure, for use under jit or eval_shape."""
    params = method.init(jax.random.fold_in(jax.random.key(seed), 0))
    # A weakly typed leaf, as from jnp.full or Python numbers, would make the step recompile.
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
    """Return the number of scalars in a pytree of arrays or shapes."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
