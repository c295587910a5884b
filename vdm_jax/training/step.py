"""The train step: a pure function of (state, global batch).

Keys are derived as seed → step → phase → purpose → position in the global batch, so resuming needs no
RNG state and the same step draws the same noise on any number of devices. Under `jit` the step processes the
global batch; under `pmap` it processes the rows of one device and calls the collectives explicitly.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from vdm_jax.core.method import Batch, Context, Method, Phase
from vdm_jax.keys import example_keys
from vdm_jax.optimizer import ema_update
from vdm_jax.training.gradients import Gradients, accumulated, loss_of
from vdm_jax.training.state import TrainState, trained

# Metrics that are not means over the window: the number of applied steps in it (log_every may change when a
# run resumes), the number of skipped steps, the number of replaced records, and the loss in equal bins of t.
COUNT, SKIPPED, REPLACED = "steps_averaged", "skipped_steps", "replaced_records"
LOSS_BY_T, COUNT_BY_T = "loss_by_t", "count_by_t"
BINS = 10
# Steps before spikes are detected, while the running mean of the loss settles.
SETTLING_STEPS = 50
NOTHING: Mapping[str, Any] = {}  # no frozen parts


class Report(NamedTuple):
    """The outputs of a call that the host reads.

    Attributes:
      loss: the loss of the last step, summed over phases.
      bad: the largest number of consecutive steps that were not applied; `bad_steps` after a spike.
      step: the last of these steps.
      jumped: whether the loss spiked at that step.
      halt: whether any process has received SIGTERM.
    """

    loss: Array
    bad: Array
    step: Array
    jumped: Array
    halt: Array


# (state, batch, frozen parts) → …; (state, batches, halt, frozen parts) → …
TrainStep = Callable[..., tuple[TrainState, Report]]
TrainCall = Callable[..., tuple[TrainState, Report]]


def context_for(seed: int, step: Array, phase: int, total: int, axis: str | None = None, rows: int = 0) -> Context:
    """Return keys and positions of the global batch, or of this device's `rows` along the mapped `axis`."""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), step + 1), phase)
    index = jnp.arange(total)
    if axis:
        index = jax.lax.axis_index(axis) * rows + jnp.arange(rows)
    example_key, batch_key = jax.random.split(key)
    context = Context(example_keys(example_key, index), batch_key, index, total)
    gather = lambda a: jax.lax.all_gather(a, axis, tiled=True)
    return context._replace(gather=gather, axis=axis) if axis else context


def make_train_step(
    method: Method,
    optimizers: dict[str, optax.GradientTransformation],
    *,
    seed: int,
    total: int,
    ema_decay: float,
    log_every: int,
    accumulate: int = 1,
    bad_steps: int = 1,
    spike: float = 0.0,
    axis: str | None = None,
    variant: Hashable = None,
) -> TrainStep:
    """Return the pure step (state, batch, frozen parts) → (state, Report), to be wrapped by jit or pmap.

    A step whose loss or gradient is not finite, or whose loss exceeds `spike` times its running mean, is counted
    but not applied.

    Args:
      method: the method to train.
      optimizers: the optimizer of each phase.
      seed: the seed of all noise.
      total: the size of the global batch.
      ema_decay: the decay of the moving average of params.
      log_every: the length of the window of metrics in steps.
      accumulate: the number of microbatches.
      bad_steps: the value of `Report.bad` after a spike.
      spike: the factor over the running mean of the loss; 0 disables the check.
      axis: the name of the axis that `pmap` maps over, or None.
      variant: the variant of the method; an unusual one (lazy R1) is excluded from spikes and the running mean.
    """
    add_up = (lambda tree: jax.lax.psum(tree, axis)) if axis else (lambda tree: tree)
    fast = {name for phase in method.phases if not phase.averaged for name in phase.trains}
    usual = variant is None or variant == method.variant(1)
    slow = lambda params: {name: part for name, part in params.items() if name not in fast}

    def step(state: TrainState, batch: Batch, frozen: Mapping[str, Any] = NOTHING) -> tuple[TrainState, Report]:
        params, extra, opt_state = state.params, state.extra, dict(state.opt_state)
        metrics: dict[str, Array] = {}
        finite = jnp.asarray(True)
        objective = jnp.zeros(())  # summed over phases
        for number, phase in enumerate(method.phases):
            context = context_for(seed, state.step, number, total, axis, batch["x"].shape[0])
            context = context._replace(variant=variant)
            result = accumulated(phase, {**frozen, **params}, extra, batch, context, accumulate)
            sums = metric_sums(result)
            loss, grads, sums = add_up((result.loss, result.grads, sums))
            objective += loss
            finite &= jnp.isfinite(loss) & jnp.isfinite(optax.global_norm(grads))
            updates, opt_state[phase.name] = optimizers[phase.name].update(
                grads, opt_state[phase.name], trained(phase, params)
            )
            params = {**params, **optax.apply_updates(trained(phase, params), updates)}
            params = phase.project(params, result.state)
            extra = method.update_extra(extra, jax.tree.map(context.gather, result.aux))
            metrics |= named(phase, {"loss": loss, **norms(grads), **means(sums, total)}, len(method.phases))
        metrics |= method.describe(params)
        replaced = add_up(records_replaced(batch))

        settled = (state.step >= SETTLING_STEPS) & (state.typical > 0)
        jumped = finite & settled & (objective > spike * state.typical) if spike and usual else jnp.asarray(False)
        good = finite & ~jumped
        ema = {**params, **ema_update(slow(state.ema), slow(params), state.step, ema_decay)}
        new = (params, ema, opt_state, extra)
        old = (state.params, state.ema, state.opt_state, state.extra)
        params, ema, opt_state, extra = jax.tree.map(lambda n, o: jnp.where(good, n, o), new, old)
        bad = jnp.where(good, 0, jnp.where(jumped, bad_steps, state.bad + 1))
        window = add_to_window(state, metrics, replaced, good, log_every)
        typical = state.typical
        if usual:
            typical = jnp.where(good, ema_update(typical, objective, state.step, 0.98), typical)
        after = TrainState(state.step + 1, params, ema, opt_state, extra, window, bad, typical)
        return after, Report(objective, bad, after.step, jumped, jnp.zeros((), jnp.int32))

    return step


def make_train_call(step: TrainStep, axis: str | None = None) -> TrainCall:
    """Return (state, batches, halt [devices] or None, frozen parts) → (state, Report), one step per batch in a scan."""

    def call(
        state: TrainState, batches: tuple[Batch, ...], halt: Array | None, frozen: Mapping[str, Any] = NOTHING
    ) -> tuple[TrainState, Report]:
        if len(batches) == 1:
            state, report = step(state, batches[0], frozen)
        else:
            state, reports = jax.lax.scan(
                lambda now, batch: step(now, batch, frozen),
                state,
                jax.tree.map(lambda *rows: jnp.stack(rows), *batches),
            )
            worst = jnp.argmax(reports.bad)
            report = jax.tree.map(lambda values: values[worst], reports)._replace(loss=reports.loss[-1])
        if halt is None:
            return state, report
        halting = jnp.max(halt)
        return state, report._replace(halt=jax.lax.pmax(halting, axis) if axis else halting)

    return call


def records_replaced(batch: Batch) -> Array:
    """Return how many of these rows replace a record that could not be decoded."""
    replaced = batch.get("replaced")
    return jnp.zeros(()) if replaced is None else jnp.sum(replaced.astype(jnp.float32))


def metric_sums(gradients: Gradients) -> dict[str, Array]:
    """Return the sums over these rows of the logged values."""
    sums = {k: jnp.sum(v) for k, v in gradients.aux.items() if k != "t"}
    if "t" in gradients.aux:
        inside = jnp.clip(jnp.floor(gradients.aux["t"] * BINS), 0, BINS - 1).astype(jnp.int32)
        here = (inside[:, None] == jnp.arange(BINS)[None, :]).astype(gradients.per_example.dtype)
        sums |= {LOSS_BY_T: jnp.sum(here * gradients.per_example[:, None], 0), COUNT_BY_T: jnp.sum(here, 0)}
    return sums


def means(sums: dict[str, Array], total: int) -> dict[str, Array]:
    """Return means over the global batch; counts remain sums."""
    return {k: v if k in (LOSS_BY_T, COUNT_BY_T) else v / total for k, v in sums.items()}


def norms(grads: dict[str, Any]) -> dict[str, Array]:
    """Return 'grad_norm' before clipping, without the schedule, and 'grad_norm_schedule' if a schedule is trained."""
    values = {"grad_norm": optax.global_norm({k: v for k, v in grads.items() if k != "schedule"})}
    if jax.tree.leaves(grads.get("schedule", {})):
        values["grad_norm_schedule"] = optax.global_norm(grads["schedule"])
    return values


def named(phase: Phase, values: dict[str, Array], phases: int) -> dict[str, Array]:
    """Prefix the metrics of a phase by its name if there are several phases."""
    return values if phases == 1 else {f"{phase.name}/{k}": v for k, v in values.items()}


def add_to_window(
    state: TrainState, metrics: dict[str, Array], replaced: Array, good: Array, log_every: int
) -> dict[str, Array]:
    """Return the window of metrics with this step added; its metrics count only if it was applied."""
    fresh = state.step % log_every == 0
    metrics = {k: jnp.where(good, v, jnp.zeros_like(v)) for k, v in metrics.items()}
    # these count skipped steps too
    metrics |= {COUNT: good.astype(jnp.float32), SKIPPED: (~good).astype(jnp.float32), REPLACED: replaced}
    return {k: jnp.where(fresh, jnp.zeros_like(v), state.window[k]) + v for k, v in metrics.items()}


def frozen_like(method: Method) -> dict[str, Any]:
    """Return initialized parts in place of the frozen ones, for tracing only."""
    return {name: part.init(jax.random.key(0)) for name, part in method.frozen.items()}


def metric_shapes(method: Method, batch: Any, total: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the shapes and dtypes of the metrics of a step, without running it."""

    def probe(batch: Batch) -> dict[str, Array]:
        params = {**frozen_like(method), **method.init(jax.random.key(0))}
        metrics: dict[str, Array] = {}
        for number, phase in enumerate(method.phases):
            context = context_for(0, jnp.zeros((), jnp.int32), number, total)
            per_example, aux, state = loss_of(phase, params, method.init_extra(params), batch, context)
            result = Gradients(jnp.mean(per_example), per_example, aux, trained(phase, params), state)
            values = {"loss": result.loss, **norms(result.grads), **means(metric_sums(result), total)}
            metrics |= named(phase, values, len(method.phases))
        return metrics | method.describe(params) | {name: jnp.zeros(()) for name in (COUNT, SKIPPED, REPLACED)}

    return jax.eval_shape(probe, batch)
