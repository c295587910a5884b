"""Variational dequantisation of a trained score SDE (Ho et al. 2019, Flow++; Song, Durkan, Murray & Ermon 2021, §5).

Which choices make it: the SDE's network as it is, from --weights and no longer trained; a small flow q(u|x) of affine
couplings that starts as uniform noise; the SDE's bound on −log p(f) plus log q as the loss, so what is learned is where
in a bin the model believes its data to be. An evaluation tells bits/dim with q ('total') and with uniform noise
('uniform'), by the bound or the flow.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from vdm_jax.core.method import Batch, Context, Method, Params, Phase, Terms
from vdm_jax.diffusion import decoders, dequantisation
from vdm_jax.methods import networks, sde
from vdm_jax.networks.coupling import Coupling

DEQUANTISER = "dequantiser"


def build(config: ConfigDict) -> Method:
    """The flow beside an SDE, from a checked config."""
    section, net = config.model, networks.network(config)
    coupling = Coupling(section.coupling_width, section.coupling_depth, jnp.dtype(section.dtype))
    model, uniform = Dequantiser(config, net, coupling), sde.SDE(config, net)
    made, plain = sde.method_of(model), sde.method_of(uniform)
    assert made.bits_per_dim is not None and plain.bits_per_dim is not None
    with_q, without = made.bits_per_dim, plain.bits_per_dim

    def bits_per_dim(params: Params, batch: Batch, keys: Array) -> Terms:
        return {**with_q(params, batch, keys), "uniform": without(params, batch, keys)["total"]}

    phases = (Phase(DEQUANTISER, (DEQUANTISER,), model.loss),)
    return made._replace(init=model.init, phases=phases, bits_per_dim=bits_per_dim)


@dataclasses.dataclass(frozen=True, eq=False)
class Dequantiser(sde.SDE):
    """An SDE whose levels are dequantised by a flow. Parameters: {'network': …, 'dequantiser': {'coupling0': …, …}}."""

    coupling: Coupling

    def init(self, key: Array) -> Params:
        """Parameters before training; the network's are replaced by those of --weights."""
        net_key, own_key = jax.random.split(key)
        like = jnp.zeros((1, *self.shape))
        keys = jax.random.split(own_key, self.config.model.couplings)
        own = {f"coupling{k}": self.coupling.init(one, like, like)["params"] for k, one in enumerate(keys)}
        return {**super().init(net_key), DEQUANTISER: own}

    def dequantised(self, params: Params, x: Array, keys: Array) -> tuple[Array, Array]:
        """Levels → (f, log q(u|x) [b]), u from the same uniform noise as the SDE's own."""
        centres = decoders.encode(x, self.vocabulary)
        couple = partial(self._couple, params[DEQUANTISER], centres)
        u, log_q = dequantisation.variational(self.uniform(keys), self.config.model.couplings, couple)
        return dequantisation.dequantise(x, u, self.vocabulary), log_q

    def _couple(self, params: Params, f: Array, number: int, kept: Array) -> tuple[Array, Array]:
        found = self.coupling.apply({"params": params[f"coupling{number}"]}, kept, f)
        return cast(tuple[Array, Array], found)

    def loss(self, params: Params, extra: Any, batch: Batch, context: Context) -> tuple[Array, Terms]:
        """The bound in bits/dim, per example; the network is asked as in an evaluation, without dropout."""
        gamma, weight = self.draw(context)
        terms = self.terms(params, batch, context.keys, gamma, weight)
        total = terms.pop("total")
        return total, {**terms, "bits_per_dim": total}
