"""Chains of `ddpm_sde` without a network: the limit of small steps, unit variance, and both forms of the bound."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import common
from experiments.common import Measured, Outcome, mean_of
from experiments.mixture import EXAMPLE
from vdm_jax import data
from vdm_jax.diffusion import per_step, tables
from vdm_jax.diffusion.process import posterior
from vdm_jax.diffusion.samplers import Transition

ROUNDING = 1e-12


def limit(config: dict[str, Any], seed: int) -> Outcome:
    """Compute the largest distances from z_t = e^{−t} x + √(1 − e^{−2t}) ε, t = ℓσ²/2, and L σ²/2 − ln(1/δ)."""
    step_variance, remaining = config["step_variance"], config["remaining"]
    levels = len(tables.constant_betas(step_variance, remaining))
    number, dt = np.arange(1, levels + 1), step_variance / 2
    exact = np.exp(-number * dt)
    factor = 1 - dt  # Euler–Maruyama: z ← z − z Δt + √(2Δt) ε
    spread = 2 * dt * (1 - factor ** (2 * number)) / (1 - factor**2)
    found = {
        "levels": levels,
        "time_minus_log": levels * dt + math.log(remaining),
        "mean_factor_off": np.abs((1 - step_variance) ** (number / 2) - exact).max(),
        "euler_mean_factor_off": np.abs(factor**number - exact).max(),
        "euler_variance_off": np.abs(spread - (1 - exact**2)).max(),
    }
    return Outcome({name: Measured(float(value)) for name, value in found.items()})


def variance_of_z(config: dict[str, Any], seed: int) -> Outcome:
    """Compute Var z_ℓ of sampled chains at the first and middle level (ᾱ near ½), and the largest |Var z_ℓ − 1|."""
    rng, count = np.random.default_rng(seed), config["draws"]
    if config["source"] == "standardized mixture":
        population = EXAMPLE.standardized().sample(rng, count)
        variance = 1.0
    else:
        digits = data.load("digits", "train")
        pixels = digits.source.images.reshape(-1) / ((digits.vocabulary or 2) - 1)
        kinds = {"digits in [0, 1]": pixels, "digits in [−1, 1]": 2 * pixels - 1}
        values = kinds.get(config["source"], (pixels - pixels.mean()) / pixels.std())
        population, variance = rng.choice(values, count), float(values.var())
    betas = tables.constant_betas(config["step_variance"], 0.7)  # ends at ᾱ = ½
    noise = jnp.asarray(rng.standard_normal((len(betas), count)))
    path = per_step.forward_path(jnp.asarray(population), noise, tables.from_betas(betas).reverse())
    return Outcome(
        {
            "variance_x": Measured(variance),
            "variance_z_1": common.variance_of(path[-2]),
            f"variance_z_{len(betas)}": common.variance_of(path[0]),
            "largest_deviation": Measured(abs(variance - 1) * (1 - config["step_variance"])),
        }
    )


def deviation_of(values: Any) -> Measured:
    """Return the standard deviation of independent values; rounding errors are set to 0."""
    variance = common.variance_of(values)
    deviation = math.sqrt(variance.mean)
    if deviation < ROUNDING:
        return Measured(0.0)
    return Measured(deviation, (variance.standard_error or 0.0) / (2 * deviation), variance.n)


def bound(config: dict[str, Any], seed: int) -> Outcome:
    """Compute both forms of the bound for one x ~ N(0, s²): their means are equal, their deviations are not."""
    betas = np.full(config["levels"], config["step_variance"])
    steps = tables.from_betas(betas).reverse()
    s2, bar = config["variance"], math.prod(1 - betas)
    change = {"exact": (0.0, 0.0), "wider": (0.0, 0.2), "wrong": (0.1, 0.2)}[config["model"]]

    def model(z: jax.Array, step: Transition) -> tuple[jax.Array, jax.Array]:
        total = jnp.square(step.frm.alpha) * s2 + jnp.square(step.frm.sigma)
        mean, deviation = posterior(z, step.frm.sigma / total * z, step.frm, step.to, step.delta)
        gain = step.to.alpha * jnp.expm1(-step.delta)
        spread = jnp.square(deviation) + jnp.square(gain) * s2 * jnp.square(step.frm.sigma) / total
        return mean + change[0], jnp.broadcast_to(jnp.log(spread) + change[1], z.shape)

    noise = np.random.default_rng(seed).standard_normal((config["levels"], config["draws"], 1))
    path = per_step.forward_path(jnp.full((config["draws"], 1), config["x"]), jnp.asarray(noise), steps)
    prior_variance = bar * s2 + 1 - bar
    by_path = np.asarray(per_step.path_bound(path, model, steps, prior_variance))
    prior, kl, ratio = per_step.path_terms(path, model, steps, prior_variance)
    by_kl, place = np.asarray(prior + kl.sum(0)), config["levels"] - config["level"]
    deviations = {"path": by_path, "kl": by_kl, "level_ratio": ratio[place], "level_kl": kl[place]}
    return Outcome(
        {
            "minus_log_p": Measured(0.5 * (config["x"] ** 2 / s2 + math.log(2 * math.pi * s2))),
            "path_nats": mean_of(by_path) if by_path.std() > ROUNDING else Measured(float(by_path.mean())),
            "kl_nats": mean_of(by_kl),
            "kl_minus_path": mean_of(by_kl - by_path),
            **{f"deviation_{name}": deviation_of(v) for name, v in deviations.items()},
        }
    )
