"""Variational dequantization of a trained score SDE (Ho et al. 2019, Flow++; Song, Durkan, Murray & Ermon 2021, §5).

The SDE's network is frozen and is loaded from `model.score_model`. Only a small flow q(u|x) of affine couplings is
trained. It is initialized to uniform noise, and its loss is the SDE's bound on −log p(f) plus log q, so it learns the
distribution of the dequantization noise u within a bin under the model. An evaluation reports bits/dim with q ('total')
and with uniform noise ('uniform'), from the variational bound or the probability flow.
"""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from vdm_jax.core.method import Batch, Context, Frozen, Method, Params, PerExample, Phase, Terms
from vdm_jax.diffusion import decoders, dequantization
from vdm_jax.gaussian.continuous import Continuous
from vdm_jax.gaussian.data import Dequantize
from vdm_jax.methods import sde
from vdm_jax.networks.coupling import Coupling

DEQUANTISER, NETWORK = "dequantizer", "network"


def build(config: ConfigDict) -> Method:
    """Build the dequantization flow of a frozen SDE from a checked config.

    The parameters are {'dequantizer': {'coupling0': …, …}}.
    """
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
    """Build the SDE on data that the flow dequantizes."""
    return sde.model(config, dequantizer(config))


def _coupling(config: ConfigDict) -> Coupling:
    section = config.model
    return Coupling(section.coupling_width, section.coupling_depth, jnp.dtype(section.dtype))


def init(config: ConfigDict, made: Continuous, key: Array) -> Params:
    """Initialize the flow, which then returns its uniform noise unchanged."""
    _, own_key = jax.random.split(key)
    like, coupling = jnp.zeros((1, *made.shape)), _coupling(config)
    keys = jax.random.split(own_key, config.model.couplings)
    own = {f"coupling{k}": coupling.init(one, like, like)["params"] for k, one in enumerate(keys)}
    return {DEQUANTISER: own}


def score_model(config: ConfigDict, made: Continuous) -> Frozen:
    """Return the frozen network of the SDE."""
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
    """Return the function (params, x [b, …], uniform noise [b, …]) → (f [b, …], log q(u|x) [b] in nats).

    The uniform noise is the same as the SDE's own, so that results with and without the flow are paired.
    """
    coupling, couplings, vocabulary = _coupling(config), config.model.couplings, config.data.vocabulary or None

    def couple(params: Params, f: Array, number: int, kept: Array) -> tuple[Array, Array]:
        scale_and_shift = coupling.apply({"params": params[f"coupling{number}"]}, kept, f)
        return cast(tuple[Array, Array], scale_and_shift)

    def dequantize(params: Params, x: Array, uniform: Array) -> tuple[Array, Array]:
        centers = decoders.encode(x, vocabulary)
        u, log_q = dequantization.variational(uniform, couplings, partial(couple, params[DEQUANTISER], centers))
        return dequantization.dequantize(x, u, vocabulary), log_q

    return dequantize


def loss(made: Continuous, params: Params, state: Any, batch: Batch, context: Context) -> tuple[Array, Terms]:
    """Return the bound in bits/dim per example, [b], and its terms; the network runs without dropout."""
    terms, _ = made.terms(params, batch, context.keys, lambda schedule: made.draw(schedule, context))
    total = terms.pop("total")
    return total, {**terms, "bits_per_dim": total}
