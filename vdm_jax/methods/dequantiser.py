"""Variational dequantization of a trained score SDE (Ho et al. 2019, Flow++; Song, Durkan, Murray & Ermon 2021, §5).

Which choices make it: the SDE's network as it is, a frozen part that `model.score_model` names; a small flow q(u|x) of
affine couplings that starts as uniform noise; the SDE's bound on −log p(f) plus log q as the loss, so what is learned
is where in a bin the model believes its data to be. An evaluation reports bits/dim with q ('total') and with uniform
noise ('uniform'), by the bound or the flow.
"""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from vdm_jax.core.method import Batch, Context, Frozen, Method, Params, PerExample, Phase, Terms
from vdm_jax.diffusion import decoders, dequantisation
from vdm_jax.gaussian.continuous import Continuous
from vdm_jax.gaussian.data import Dequantize
from vdm_jax.methods import sde
from vdm_jax.networks.coupling import Coupling

DEQUANTISER, NETWORK = "dequantiser", "network"


def build(config: ConfigDict) -> Method:
    """The flow beside an SDE, from a checked config. Parameters: {'dequantiser': {'coupling0': …, …}}."""
    made, plain = model(config), sde.build(config)
    method = sde.method_of(config, made, Phase(DEQUANTISER, (DEQUANTISER,), partial(loss, made)))
    assert method.measured is not None and plain.measured is not None
    with_q, without = method.measured, plain.measured

    def bits_per_dim(params: Params, batch: Batch, keys: Array) -> Terms:
        uniform = without.terms(params, batch, keys)["total"]
        return {**with_q.terms(params, batch, keys), "uniform": uniform}

    evaluator = PerExample(with_q.name, bits_per_dim, with_q.estimator)
    return method._replace(
        init=partial(init, config, made), evaluators=(evaluator,), frozen={NETWORK: score_model(config, made)}
    )


def model(config: ConfigDict) -> Continuous:
    """The SDE with data that are dequantized by the flow."""
    return sde.model(config, dequantizer(config))


def _coupling(config: ConfigDict) -> Coupling:
    section = config.model
    return Coupling(section.coupling_width, section.coupling_depth, jnp.dtype(section.dtype))


def init(config: ConfigDict, made: Continuous, key: Array) -> Params:
    """The flow before training: uniform noise."""
    _, own_key = jax.random.split(key)
    like, coupling = jnp.zeros((1, *made.shape)), _coupling(config)
    keys = jax.random.split(own_key, config.model.couplings)
    own = {f"coupling{k}": coupling.init(one, like, like)["params"] for k, one in enumerate(keys)}
    return {DEQUANTISER: own}


def score_model(config: ConfigDict, made: Continuous) -> Frozen:
    """The network of the SDE that is dequantized."""
    plain = ConfigDict(config.to_dict())
    plain.method = "sde"
    return Frozen(
        what="a score SDE",
        field="model.score_model",
        path=config.model.get("score_model", ""),
        config=plain,
        init=lambda key: made.init(key)[NETWORK],
        select=lambda params: params[NETWORK],
    )


def dequantizer(config: ConfigDict) -> Dequantize:
    """(params, x, uniform noise [b, …]) → (f, log q(u|x) [b]), u from the same uniform noise as the SDE's own."""
    coupling, couplings, vocabulary = _coupling(config), config.model.couplings, config.data.vocabulary or None

    def couple(params: Params, f: Array, number: int, kept: Array) -> tuple[Array, Array]:
        found = coupling.apply({"params": params[f"coupling{number}"]}, kept, f)
        return cast(tuple[Array, Array], found)

    def dequantize(params: Params, x: Array, uniform: Array) -> tuple[Array, Array]:
        centers = decoders.encode(x, vocabulary)
        u, log_q = dequantisation.variational(uniform, couplings, partial(couple, params[DEQUANTISER], centers))
        return dequantisation.dequantise(x, u, vocabulary), log_q

    return dequantize


def loss(made: Continuous, params: Params, state: Any, batch: Batch, context: Context) -> tuple[Array, Terms]:
    """The bound in bits/dim, per example; the network runs in evaluation mode, without dropout."""
    terms, _ = made.terms(params, batch, context.keys, lambda schedule: made.draw(schedule, context))
    total = terms.pop("total")
    return total, {**terms, "bits_per_dim": total}
