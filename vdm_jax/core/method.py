"""The interface between a method and the trainer, the evaluator and the planner.

These three work with any `Method`. Losses are per example, so masking, losses by t and sharding of the batch need no
support from the method. Noise and times depend only on (seed, step, position in the global batch).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple

import numpy as np
from jax import Array

from vdm_jax.conditioning.base import Conditions
from vdm_jax.core.chain import Chain

Params = Any
Extra = Any
Batch = dict[str, Any]
Terms = dict[str, Array]
LIKELIHOOD = "bits_per_dim"  # the name of the evaluator of likelihoods
PREPARED = "prepared"  # the key in params of what `Collected.prepare` returns
STATE = "state"  # the entry of a loss's aux that `Phase.project` receives; it is neither per example nor logged


class Context(NamedTuple):
    """The random keys of a loss, and the positions of its examples in the global batch.

    Attributes:
        keys: One key per example, [b].
        key: One key for the global batch, such as for the u of stratified times.
        index: Positions in the global batch, int [b].
        total: The size of the global batch.
        gather: [b, …] → [total, …], the identity under jit and an all-gather under pmap.
        axis: The name of the axis that pmap maps over; None under jit.
        variant: The variant of the step, see `Method`.
    """

    keys: Array
    key: Array
    index: Array  # type: ignore[assignment]  # hides tuple.index
    total: int
    gather: Callable[[Array], Array] = lambda a: a
    axis: str | None = None
    variant: Hashable = None


class Phase(NamedTuple):
    """The part of a training step that one optimizer updates.

    Attributes:
        name: The name of the phase in metrics and checkpoints.
        trains: The top-level keys of the parameters that it updates; gradients of the others are stopped.
        loss: (params, extra, batch, context) → (loss [b], aux: a dict of per-example arrays).
        rate: The field of config.optimizer with the learning rate; if that is 0, `learning_rate` is used.
        averaged: Whether an exponential moving average of the weights is kept; else the average equals the weights.
        couples_batch: Whether the loss of an example depends on the rest of its batch, as a contrastive loss does.
            Microbatches would have fewer negatives, so gradients are accumulated through `coupling`, or accumulation
            is refused if there is none.
        coupling: The two halves of a loss that couples its batch, or None.
        project: (params, aux[STATE]) → params, applied after the update: a projection to a constraint, or running
            statistics of the batch.
        decayed: The names of parameters that weight decay applies to.
    """

    name: str
    trains: tuple[str, ...]
    loss: Callable[[Params, Extra, Batch, Context], tuple[Array, Terms]]
    rate: str = "learning_rate"
    averaged: bool = True
    couples_batch: bool = False
    coupling: Coupling | None = None
    project: Callable[[Params, Any], Params] = lambda params, state: params
    decayed: tuple[str, ...] = ("kernel",)


class Coupling(NamedTuple):
    """A loss that couples its batch, as a function of embeddings that each depend on one example.

    Attributes:
        embed: (params, extra, batch, context) → a pytree of embeddings [b, …].
        loss: (params, extra, embeddings, batch, context) → (loss [b], aux), as `Phase.loss`. It calls no network.
    """

    embed: Callable[[Params, Extra, Batch, Context], Any]
    loss: Callable[[Params, Extra, Any, Batch, Context], tuple[Array, Terms]]

    def whole(self, params: Params, extra: Extra, batch: Batch, context: Context) -> tuple[Array, Terms]:
        """Return the loss of a batch that is embedded at once."""
        return self.loss(params, extra, self.embed(params, extra, batch, context), batch, context)


class PerExample(NamedTuple):
    """An evaluator that averages per-example terms over a split, such as a likelihood.

    Attributes:
        name: The name of 'total' in results; 'bits_per_dim' marks a likelihood.
        terms: (params, batch, keys [b]) → named terms [b], including 'total', and terms by noise level [b, G],
            including 't'.
        estimator: The name of the estimator.
        also: Terms that are reported in addition to the total.
        by_level: Term by noise level → its name in results, where it is averaged in ten groups of t.
    """

    name: str
    terms: Callable[[Params, Batch, Array], Terms]
    estimator: str = ""
    also: tuple[str, ...] = ()
    by_level: Mapping[str, str] = {}


class SampleSet(NamedTuple):
    """An evaluator that compares a set of samples with the images of a split: Fréchet distance, precision and recall.

    Attributes:
        name: The name of the evaluator in results.
    """

    name: str = "sample_quality"


class Collected(NamedTuple):
    """An evaluator of all examples of a split together: metrics of pairs, such as retrieval, or zero-shot accuracy.

    Attributes:
        name: The name of its entry in results.
        outputs: (params, batch, keys [b]) → named arrays [b, …] of every example, computed on the devices.
        prepare: params → arrays that do not depend on the examples, such as embeddings of class names; `outputs` finds
            them in params under PREPARED. None if there are none.
        summarize: Named arrays [N, …] of all examples in the order of the split → its entry in results: numbers with
            their errors. It runs on the host.
        sentence: Its entry in results → one line to print.
    """

    name: str
    outputs: Callable[[Params, Batch, Array], Terms]
    summarize: Callable[[dict[str, np.ndarray]], dict[str, Any]]
    sentence: Callable[[dict[str, Any]], str]
    prepare: Callable[[Params], Any] | None = None


Evaluator = PerExample | SampleSet | Collected


class Frozen(NamedTuple):
    """A part of a model that is not trained, such as a teacher or a guiding classifier.

    It is loaded from a path and checked. It is not part of the optimizer state, the average of the weights or
    checkpoints. Functions of the method find it in params under its key in `Method.frozen`.

    Attributes:
        what: A description for messages, such as 'a teacher'.
        field: The config field of the path.
        path: The path of its weights; '' if it is not set.
        config: The config that its weights must match.
        init: key → params of the part, for their shapes.
        select: params of the loaded model → params of the part.
        copied_to: The subtree of params that is initialized with a copy of the part; '' for none.
        training_only: Whether only losses use it.
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
    """A paper's model as functions of parameters and data. What a method does not support is None or empty.

    Attributes:
        init: key → params.
        phases: The phases of a training step in order, each with its own optimizer.
        sample: (params, keys [b], cond, num_steps, keep) → samples [b, …] and states [K, b, …] after K kept steps. An
            adaptive sampler also returns the number of network evaluations [b], which is 0 where the solver failed.
        denoise: params → Denoise, for custom samplers, guidance and likelihoods.
        schedule: params → the schedule γ(t) of a diffusion.
        chain: (params, cond, num_steps) → Chain, which `sample` runs and editing wraps. cond is a mapping name → value
            [b, …] of the conditions, or `conditioning.Guided`.
        evaluators: The evaluators of `--mode=eval`, each with a separate result. The first `PerExample` one also runs
            in the evaluations during training.
        frozen: Key in params → a part that is not trained.
        ode: params → likelihood.ODE, the probability flow, for latents and densities.
        encode: Data → f [b, …], the clean signal in z_t = α_t f + σ_t ε.
        decode: (z [b, …], its noise level) → the most likely data.
        init_extra: params → checkpointed state that is neither trained nor data. It is initialized again where a run
            starts from existing weights.
        update_extra: (extra, aux in the order of the global batch) → extra.
        variant: The number of completed steps → a hashable value that is static under jit and is passed to losses in
            their context. Every variant is compiled separately and reports the same metrics; variant(1) is the usual
            one.
        pictures: (params, batch, keys [b]) → {name: rows of images [b, K, H, W, C] in [0, 1]}, additional pictures of
            an evaluation.
        describe: params → {name: 0-d array}, scalars for the log, such as the endpoints of a schedule.
        conditions: The conditions of the network; for a classifier, what it predicts.
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
    def evaluates(self) -> bool:
        """Whether an evaluator reads a split example by example, unlike one of samples."""
        return any(isinstance(e, PerExample | Collected) for e in self.evaluators)

    @property
    def measured(self) -> PerExample | None:
        """The first per-example evaluator, or None."""
        return next((e for e in self.evaluators if isinstance(e, PerExample)), None)

    @property
    def bits_per_dim(self) -> Callable[[Params, Batch, Array], Terms] | None:
        """(params, batch, keys [b]) → named terms of a likelihood, [b] in bits/dim, including 'total'; or None."""
        return self.measured.terms if self.measured and self.measured.name == LIKELIHOOD else None
