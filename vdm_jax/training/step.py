"""The train step: a pure function of (state, global batch).

Keys are derived as seed → step → phase → purpose → position in the global batch, so resuming needs no
RNG state and the same step draws the same noise on any number of devices.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from vdm_jax.methods.base import Batch, Context, Method, Phase, example_keys
from vdm_jax.training.optimizer import ema_update
from vdm_jax.training.state import TrainState, trained

# Steps in the window: a resumed run may have another log_every than the one that began it.
COUNT = "steps_averaged"

TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Array]]


def context_for(seed: int, step: Array, phase: int, total: int) -> Context:
    """Keys and positions of the whole global batch."""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), step + 1), phase)
    index = jnp.arange(total)
    example_key, batch_key = jax.random.split(key)
    return Context(example_keys(example_key, index), batch_key, index, total)


def _gradients(
    phase: Phase, params: Any, extra: Any, batch: Batch, context: Context
) -> tuple[Array, dict[str, Array], Any]:
    """(loss, per-example aux, gradients of what the phase trains)."""

    def scalar(part: Any) -> tuple[Array, dict[str, Array]]:
        whole = {**jax.lax.stop_gradient(params), **part}
        per_example, aux = phase.loss(whole, extra, batch, context)
        return jnp.sum(per_example) / context.total, aux

    (loss, aux), grads = jax.value_and_grad(scalar, has_aux=True)(trained(phase, params))
    return loss, aux, grads


def make_train_step(
    method: Method,
    optimizers: dict[str, optax.GradientTransformation],
    *,
    seed: int,
    total: int,
    ema_decay: float,
    log_every: int,
) -> TrainStep:
    """(state, batch of `total`) → (state after one step, loss). To be wrapped by jit at the edge."""

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Array]:
        params, extra, opt_state = state.params, state.extra, dict(state.opt_state)
        metrics: dict[str, Array] = {}
        finite = jnp.asarray(True)
        loss = jnp.zeros(())
        for number, phase in enumerate(method.phases):
            context = context_for(seed, state.step, number, total)
            loss, aux, grads = _gradients(phase, params, extra, batch, context)
            norm = optax.global_norm(grads)
            finite &= jnp.isfinite(loss) & jnp.isfinite(norm)
            updates, opt_state[phase.name] = optimizers[phase.name].update(
                grads, opt_state[phase.name], trained(phase, params)
            )
            params = {**params, **optax.apply_updates(trained(phase, params), updates)}
            extra = method.update_extra(extra, aux)
            metrics |= _metrics(phase, loss, norm, aux, len(method.phases))
        metrics |= {**method.describe(params), COUNT: jnp.ones(())}
        fresh = state.step % log_every == 0
        window = {k: jnp.where(fresh, 0.0, state.window[k]) + v for k, v in metrics.items()}
        bad = jnp.where((state.bad_step < 0) & ~finite, state.step + 1, state.bad_step)
        ema = ema_update(state.ema, params, state.step, ema_decay)
        return TrainState(state.step + 1, params, ema, opt_state, extra, window, bad), loss

    return step


def _metrics(phase: Phase, loss: Array, norm: Array, aux: dict[str, Array], phases: int) -> dict[str, Array]:
    """Scalars of one phase; prefixed by its name where there are several."""
    means = {k: jnp.mean(v) for k, v in aux.items() if k != "t"}
    values = {"loss": loss, "grad_norm": norm, **means}
    return values if phases == 1 else {f"{phase.name}/{k}": v for k, v in values.items()}


def metric_names(method: Method, optimizers: Any, batch: Any, total: int) -> tuple[str, ...]:
    """Names of the metrics a step reports, found without running it."""

    def probe(batch: Batch) -> dict[str, Array]:
        params = method.init(jax.random.key(0))
        metrics: dict[str, Array] = {}
        for number, phase in enumerate(method.phases):
            context = context_for(0, jnp.zeros((), jnp.int32), number, total)
            per_example, aux = phase.loss(params, method.init_extra(), batch, context)
            loss = jnp.mean(per_example)
            metrics |= _metrics(phase, loss, loss, aux, len(method.phases))
        return metrics | method.describe(params) | {COUNT: jnp.ones(())}

    return tuple(sorted(jax.eval_shape(probe, batch)))
