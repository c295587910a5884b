"""Gaussian diffusions on a schedule γ(t), t ∈ [0, 1]: the bound, the probability flow, and the sampler.

    −log p(x) ≤ reconstruction + prior + diffusion + …,   diffusion = weight ‖ε − ε̂(z_t; γ_t)‖²

in bits/dim, for VP, sub-VP and VE (VDM, §4; Song, Durkan, Murray & Ermon 2021, theorem 3). Papers differ in the
distribution of γ and its weight, in the decoder and in the objective.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from vdm_jax.core.chain import Chain
from vdm_jax.core.method import Batch, Context, Evaluator, Method, Params, PerExample, Phase, Terms
from vdm_jax.diffusion import guidance, likelihood, losses, samplers, schedules, times
from vdm_jax.diffusion.process import Noise, Process, q_sample
from vdm_jax.gaussian import adaptive, sampling
from vdm_jax.gaussian.base import Gaussian
from vdm_jax.gaussian.data import Data
from vdm_jax.keys import fold, normal_like


class Draw(NamedTuple):
    """The noise level of each example, each field [B].

    Attributes:
        t: The time that is reported with the loss.
        gamma: γ.
        weight: The weight of ‖ε − ε̂‖² in the diffusion term, in nats.
    """

    t: Array
    gamma: Array
    weight: Array


class Purposes(NamedTuple):
    """The numbers that keys are folded with; they are distinct within a method."""

    diffusion: int
    dropout: int
    time: int
    start: int
    path: int


EVERY_STEP = sampling.Steps()  # equal steps of t from 1 to 0
# (γ(t), context) → Draw; (γ(t), keys [B]) → Draw
TrainingDraw = Callable[[schedules.Schedule, Context], Draw]
EvaluationDraw = Callable[[schedules.Schedule, Array], Draw]


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Continuous(Gaussian):
    """A diffusion on a schedule γ(t).

    Attributes:
        process: The forward process.
        schedule: params → γ(t).
        level_of: γ → Noise, with t in the units of the network.
        data: The encoder and decoder.
        purposes: The numbers that keys are folded with.
        draw: (γ(t), context) → the noise levels of a training batch.
        draw_evaluation: (γ(t), keys [B]) → the noise levels of the evaluated bound.
        objective: (terms, draw) → the training loss per example, [B].
        init_schedule: key → params of the schedule; None if it is fixed.
        control: draw → a control variate of the bound, [B] in nats; its mean over draws in continuous time is 0.
        divergence: The divergence estimator of the flow, 'auto', 'exact' or 'hutchinson'.
        tolerance: The tolerance of the ODE solver for likelihoods.
        steps: The time grid of the sampler.
        rules: Step rules of the method itself, by the name of the sampler.
    """

    process: Process
    schedule: Callable[[Params], schedules.Schedule]
    level_of: Callable[[Array], Noise]
    data: Data
    purposes: Purposes
    draw: TrainingDraw
    draw_evaluation: EvaluationDraw
    objective: Callable[[Mapping[str, Array], Draw], Array]
    init_schedule: Callable[[Array], Params] | None = None
    control: Callable[[Draw], Array] | None = None
    divergence: str = "auto"
    tolerance: float = 1e-5
    steps: sampling.Steps = EVERY_STEP
    rules: Mapping[str, sampling.Rule] = dataclasses.field(default_factory=dict)

    def init(self, key: Array) -> Params:
        """Initialize the parameters {'network': …}, and {'schedule': …} if the schedule is trained."""
        if self.init_schedule is None:
            return {"network": self.init_network(key)}
        net_key, schedule_key = jax.random.split(key)
        return {"network": self.init_network(net_key), "schedule": self.init_schedule(schedule_key)}

    def encode(self, x: Array) -> Array:
        return self.data.encode(x)

    def terms(
        self,
        params: Params,
        batch: Batch,
        keys: Array,
        draw_from: Callable[[schedules.Schedule], Draw],
        train: bool = False,
    ) -> tuple[Terms, Draw]:
        """Compute the terms of −VLB at one noise level per example.

        Args:
            params: The parameters.
            batch: A batch with data 'x'.
            keys: One key per example, [B].
            draw_from: γ(t) → the noise levels.
            train: Whether dropout is on and conditions are dropped.

        Returns:
            The terms in bits/dim [B] and their sum 'total', with 't' and 'error' = ‖ε − ε̂‖²/D; and the draw.
        """
        schedule, x = self.schedule(params), batch["x"]
        f, extra = self.data.dequantized(params, x, keys)
        start = self.level_of(schedule.gamma(jnp.zeros(())))
        draw = draw_from(schedule)
        level, eps = self.level_of(draw.gamma), normal_like(keys, self.shape, self.purposes.diffusion)
        z, cond = q_sample(f, eps, level), self.cond_of(batch, keys if train else None)
        raw = self.denoise(params, fold(keys, self.purposes.dropout) if train else None)(z, level, cond)
        error = losses.squared_error(eps, self.split(raw, z, level).eps)
        nats = {
            "reconstruction": self.data.reconstruction(x, f, keys, start, schedule.gamma_0),
            "prior": losses.prior(f, schedule.gamma(jnp.ones(())), self.process),
            "diffusion": draw.weight * error,
        }
        if self.control is not None:
            nats["control"] = self.control(draw)
        return {**self.in_bits({**nats, **extra}), "t": draw.t, "error": losses.error_per_dim(error, z)}, draw

    def loss(self, params: Params, state: Any, batch: Batch, context: Context) -> tuple[Array, Terms]:
        """Return the training loss per example [b], and aux: the terms of the bound in bits/dim."""
        draw_from = lambda schedule: self.draw(schedule, context)
        terms, draw = self.terms(params, batch, context.keys, draw_from, train=True)
        objective = self.objective(terms, draw)
        total = terms.pop("total")
        return objective, {**terms, "bits_per_dim": total}

    def vlb(self, params: Params, batch: Batch, keys: Array) -> Terms:
        """Estimate the terms of the variational bound, [B] in bits/dim, at one independent noise level per example."""
        return self.terms(params, batch, keys, lambda schedule: self.draw_evaluation(schedule, keys))[0]

    def ode(self, params: Params) -> likelihood.ODE:
        """Return the probability-flow ODE."""
        schedule, denoise = self.schedule(params), self.denoise(params)
        predict = lambda z, level, cond: samplers.predictor(denoise, self.split, cond)(z, level)
        ends = schedule.gamma_0, schedule.gamma_1
        return likelihood.ODE(predict, self.level_of, *ends, self.process, self.tolerance)

    def flow_bound(self, params: Params, batch: Batch, keys: Array) -> Terms:
        """Compute the terms of a bound on −log₂ p(x)/D from the flow's density, and 'evaluations' of the network."""
        rule = likelihood.divergence_of(self.divergence, self.dimensions)
        nats = self.data.flow(self.ode(params), params, batch["x"], self.cond_of(batch), keys, rule)
        evaluations = nats.pop("evaluations")
        return {**self.in_bits(nats), "evaluations": evaluations}

    def chain(
        self,
        params: Params,
        cond: Any,
        num_steps: int,
        gradient: guidance.Gradient | None = None,
        scale: guidance.Weight = 0.0,
    ) -> Chain:
        """Return the sampler from γ(1) down to the last level, with steps that are uniform in t or in γ.

        The gradient ∇ log p(c|z) of a guide, times `scale`, shifts the score.
        """
        schedule = self.schedule(params)
        predict = self.predictor(self.denoise(params), cond)
        if gradient is not None:
            predict = guidance.classifier(predict, gradient, classifier_scale=scale)
        steps, grid = self.steps.transitions(self.sampler.name, schedule, self.level_of, num_steps)
        last = self.level_of(schedule.gamma(jnp.asarray(self.steps.end)))
        return Chain(
            start=lambda keys: samplers.prior_sample(
                fold(keys, self.purposes.start), self.shape, schedule.gamma_1, self.process
            ),
            path_keys=lambda keys: fold(keys, self.purposes.path),
            step=sampling.step_rule(self.sampler, predict, self.process, schedule, grid, self.rules),
            steps=steps,
            end=lambda z, keys: self.data.last(predict, z, last, keys),
            visualize=self.steps.visualize(steps),
            final_nfe=self.steps.final_nfe,
        )

    def describe(self, params: Params) -> Terms:
        """Return the endpoints of the schedule."""
        schedule = self.schedule(params)
        return {"gamma_0": schedule.gamma(jnp.zeros(())), "gamma_1": schedule.gamma(jnp.ones(()))}


def method(model: Continuous, phase: Phase, estimator: str, name: str) -> Method:
    """Build the method of a continuous diffusion.

    Args:
        model: The diffusion.
        phase: The phase that trains it.
        estimator: The likelihood estimator, 'vlb' or 'ode'.
        name: The name of the estimator in results.
    """
    bits_per_dim = {"vlb": model.vlb, "ode": model.flow_bound}[estimator]
    evaluators: tuple[Evaluator, ...] = (PerExample("bits_per_dim", bits_per_dim, name),)
    return Method(
        init=model.init,
        phases=(phase,),
        conditions=model.conditions,
        sample=adaptive.sampler(model),
        chain=model.chain,
        denoise=model.denoise,
        schedule=model.schedule,
        evaluators=evaluators,
        ode=model.ode,
        encode=model.encode,
        decode=model.data.decode,
        describe=model.describe,
    )


def sample_times(kind: str, context: Context, purpose: int) -> Array:
    """Draw t [b] for a training batch, 'stratified' over the global batch or 'independent'."""
    if kind == "stratified":
        u = jax.random.uniform(jax.random.fold_in(context.key, purpose))
        return times.stratified(u, context.index, context.total)
    return times.independent(fold(context.keys, purpose))
