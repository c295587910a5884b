"""The interface between a method and the trainer, the evaluator and the planner.

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
LIKELIHOOD = "bits_per_dim"  # the name of an evaluator


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
    couples_batch: whether an example's loss depends on the others of the batch, as a contrastive one does: then a
        step is not made of microbatches, which would hold fewer negatives.
    """

    name: str
    trains: tuple[str, ...]
    loss: Callable[[Params, Extra, Batch, Context], tuple[Array, Terms]]
    rate: str = "learning_rate"
    averaged: bool = True
    couples_batch: bool = False


class PerExample(NamedTuple):
    """An evaluator of terms of every example of a split, such as a likelihood.

    name: what results call 'total'; 'bits_per_dim' is a likelihood. terms: (params, batch, keys [b]) → named terms of
    every example, [b], 'total' among them, and by noise level, [b, G]: 't' and others. estimator: how, in words. also:
    terms that are reported with the total. by_level: term by noise level → what results call it, in ten groups of t.
    """

    name: str
    terms: Callable[[Params, Batch, Array], Terms]
    estimator: str = ""
    also: tuple[str, ...] = ()
    by_level: Mapping[str, str] = {}


class SampleSet(NamedTuple):
    """An evaluator of a set of samples against images of a split: Fréchet distance, precision and recall.

    name: what results call it.
    """

    name: str = "sample_quality"


Evaluator = PerExample | SampleSet


class Frozen(NamedTuple):
    """A part of a model that is not trained, such as a teacher or a guiding classifier.

    It is read from a path and checked, and is never in the optimizer, the average or a checkpoint. Functions find it
    among the params, under its name in `Method.frozen`.

    what: for messages. field: of the config, that holds the path. path: '' where none is set. config: that its weights
    are checked against. select: params of that model → this part. init: key → a part of that shape. copied_to: the
    subtree of the params that training starts with a copy of, '' for none. training_only: whether only losses use it.
    """

    what: str
    field: str
    path: str
    config: Any
    init: Callable[[Array], Params]
    select: Callable[[Params], Params] = lambda params: params
    copied_to: str = ""
    training_only: bool = False


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
    evaluators: what an evaluation measures, each into a result of its own; the first that is `PerExample` is also
        what training reports in its course. What a method cannot do is None or missing.
    ode: params → likelihood.ODE, the probability flow, for latents and densities.
    encode: data → f [b, …], what α_t is a factor of; decode: (z [b, …], its level) → the most likely data.
    pictures: (params, batch, keys [b]) → {name: rows of images [b, K, H, W, C] in [0, 1]}, or None: what else an
        evaluation draws of the first images.
    describe: params → {name: 0-d array}, scalars for the log (the endpoints of a schedule).
    frozen: name among the params → a part that is not trained.
    conditions: what examples are conditioned on, or, of a classifier, what it predicts.
    """

    init: Callable[[Array], Params]
    phases: tuple[Phase, ...]
    sample: Callable[..., tuple[Array, Any]] | None = None
    denoise: Callable[[Params], Callable[..., Array]] | None = None
    schedule: Any = None  # params → γ(t) of a diffusion
    chain: Callable[[Params, Any, int], Chain] | None = None
    evaluators: tuple[Evaluator, ...] = ()
    frozen: Mapping[str, Frozen] = {}
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
    def measured(self) -> PerExample | None:
        """What an evaluation measures of every example, if anything."""
        return next((e for e in self.evaluators if isinstance(e, PerExample)), None)

    @property
    def bits_per_dim(self) -> Callable[[Params, Batch, Array], Terms] | None:
        """(params, batch, keys [b]) → named terms of a likelihood, [b] in bits/dim ('total' among them); or None."""
        return self.measured.terms if self.measured and self.measured.name == LIKELIHOOD else None
