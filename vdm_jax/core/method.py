"""What a paper has to say for the trainer, the evaluator and the planner to run it.

Those three are written once, on `Method`. Losses are per example, so masks, loss by t and any split of
the batch come for free; noise and times depend on (seed, step, position in the global batch) alone.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple

from jax import Array

from vdm_jax.conditioning.base import Conditions
from vdm_jax.core.chain import Chain

Params = Any
Extra = Any
Batch = dict[str, Any]
Terms = dict[str, Array]


class Context(NamedTuple):
    """Where the examples of a loss stand in the global batch.

    keys: [b], one per example; key: one for the whole global batch (the u of stratified times);
    index: int [b], places in the global batch; total: its size; gather: [b, …] → [total, …], the
    identity under jit and an all-gather where the batch is split by hand; variant: of the step, see `Method`.
    """

    keys: Array
    key: Array
    index: Array  # type: ignore[assignment]  # hides tuple.index
    total: int
    gather: Callable[[Array], Array] = lambda a: a
    variant: Hashable = None


class Phase(NamedTuple):
    """One optimiser's share of a step.

    trains: top-level names of the parameter tree that it updates; the other subtrees are stopped.
    loss: (params, extra, batch, context) → (per-example loss [b], aux of per-example arrays).
    rate: the field of config.optimizer that holds its learning rate; where that is 0, learning_rate does.
    averaged: whether the average of the weights follows them slowly, or is them.
    """

    name: str
    trains: tuple[str, ...]
    loss: Callable[[Params, Extra, Batch, Context], tuple[Array, Terms]]
    rate: str = "learning_rate"
    averaged: bool = True


class Measure(NamedTuple):
    """What an evaluation measures.

    name: what results call 'total'. terms: (params, batch, keys [b]) → named terms of every example, [b], 'total' among
    them, and by level, [b, G]: 't' and others. estimator: how, in words. also: terms that are told with the total.
    by_level: term by level → what results call it, in ten groups of t.
    """

    name: str
    terms: Callable[[Params, Batch, Array], Terms]
    estimator: str = ""
    also: tuple[str, ...] = ()
    by_level: Mapping[str, str] = {}


class Method(NamedTuple):
    """A paper as functions of parameters and data.

    init: key → params. init_extra: params → state that is neither trained nor data (checkpointed).
        It is made again of weights that a run starts from.
    phases: in order, each with its optimiser. update_extra: (extra, aux in global order) → extra.
    variant: number of steps done → hashable, a static choice on the host that losses find in their context (two
        compiled steps, never lax.cond); what is reported has the same names in all. variant(1) is the usual one.
    sample: (params, keys [b], cond, num_steps, keep) → data [b, …], states [K, b, …] after K of the steps
        and, where every image takes as many steps as it wants, the evaluations [b] of the network, 0 for a failure
    chain: (params, cond, num_steps) → Chain, what `sample` runs and editing wraps. cond: name → value [b, …] of each
        condition, or `conditioning.Guided`.
    denoise: params → Denoise, for samplers, guidance and likelihoods of one's own.
    bits_per_dim: (params, batch, keys [b]) → named terms, each [b] in bits/dim ('total' among them).
    measure: what an evaluation measures where that is no likelihood. What a method cannot do is None.
    ode: params → likelihood.ODE, the probability flow, for latents and densities.
    encode: data → f [b, …], what α_t is a factor of; decode: (z [b, …], its level) → the most likely data.
    pictures: (params, batch, keys [b]) → {name: rows of images [b, K, H, W, C] in [0, 1]}, or None: what else an
        evaluation draws of the first images.
    describe: params → {name: 0-d array}, scalars for the log (the endpoints of a schedule).
    conditions: what examples are conditioned on, or, of a classifier, what it predicts.
    """

    init: Callable[[Array], Params]
    phases: tuple[Phase, ...]
    sample: Callable[..., tuple[Array, Any]] | None
    denoise: Callable[[Params], Callable[..., Array]] | None
    schedule: Callable[[Params], Any]
    chain: Callable[[Params, Any, int], Chain] | None = None
    bits_per_dim: Callable[[Params, Batch, Array], Terms] | None = None
    measure: Measure | None = None
    ode: Callable[[Params], Any] | None = None
    encode: Callable[[Array], Array] = lambda x: x
    decode: Callable[[Array, Any], Array] = lambda z, level: z
    init_extra: Callable[[Params], Extra] = lambda params: ()
    update_extra: Callable[[Extra, Terms], Extra] = lambda extra, aux: extra
    variant: Callable[[int], Hashable] = lambda step: None
    pictures: Callable[[Params, Batch, Array], dict[str, Array]] | None = None
    describe: Callable[[Params], Terms] = lambda params: {}
    conditions: Conditions = ()

    @property
    def measured(self) -> Measure | None:
        """What an evaluation measures, if anything."""
        return self.measure or (Measure("bits_per_dim", self.bits_per_dim) if self.bits_per_dim else None)
