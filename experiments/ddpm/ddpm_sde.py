"""The chain of the lecture on diffusion basics (McAllester, TTIC 31230, 2022) on known densities.

  * one step: noise of that step, noise of all steps and z_{ℓ−1} as targets, how much of each can be learned,
    and the error of confusing one noise with the other;
  * the same by level, with the size of each loss's gradient, for constant σ and for DDPM's linear β;
  * the reverse step: multimodal when large, Gaussian as σ → 0, and the total loss of a Gaussian chain;
  * the limit e^{−t} and its Euler–Maruyama steps; unit variance for standardized data;
  * the bound by KL terms and as a ratio along the path.

There is no network: everything is quadrature, closed form, or draws with standard errors, in float64.

    python -m experiments.ddpm.ddpm_sde --mini --seeds=1
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from experiments import common, mixture
from experiments.common import Measured, Outcome, Row, mean_of
from experiments.ddpm import gaussian_chain
from experiments.ddpm.ddpm_sde_plot import plot
from experiments.mixture import EXAMPLE, GRID, Mixture
from vdm_jax.diffusion import per_step, reverse, tables
from vdm_jax.diffusion.process import posterior
from vdm_jax.diffusion.samplers import Transition

ALPHA_BAR, PLACE = 0.5, 0.9  # ᾱ of the level before the step, and the z_ℓ that is examined
REMAINING = 0.01  # δ: a chain ends where α^L < δ
LEVELS_SHOWN = (1, 2, 11, 101, 501, 1000)
CHAINS = {"constant σ² = 0.02": tables.constant_betas(0.02, REMAINING), "linear β": tables.linear_betas(1000)}
SINGLE = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 0.5, 0.7, 0.9)
WHOLE = (0.5, 0.2, 0.1, 0.05, 0.02)
SHOWN = (0.03, 0.3, 0.7)  # reverse densities in the figure
GAUSSIAN = {"variance": 0.5, "x": 0.4, "step_variance": 0.15, "levels": 10, "level": 5}
DRAWS = {"mini": 200_000, "paper": 2_000_000}


def rows(scale: str) -> list[Row]:
    draws = DRAWS[scale]
    step = {"alpha_bar": ALPHA_BAR, "z": PLACE, "draws": draws}
    found = [Row(f"one step, σ² = {s:g}", {"kind": "step", "step_variance": s, **step}) for s in (0.02, 0.0001)]
    found += [Row(f"chain, {name}", {"kind": "chain", "chain": name}) for name in CHAINS]
    found += [
        Row(f"reverse step, σ² = {s:g}", {"kind": "single", "step_variance": s, "alpha_bar": 0.9}) for s in SINGLE
    ]
    found += [
        Row(f"whole chain, σ² = {s:g}", {"kind": "whole", "step_variance": s, "remaining": REMAINING}) for s in WHOLE
    ]
    found += [
        Row(f"limit, σ² = {s:g}", {"kind": "limit", "step_variance": s, "remaining": REMAINING})
        for s in (0.2, 0.02, 0.01, 0.002)
    ]
    found += [
        Row(
            f"variance of z, {source}",
            {"kind": "variance", "source": source, "step_variance": 0.02, "draws": draws // 4},
        )
        for source in ("standardized mixture", "digits in [0, 1]", "digits in [−1, 1]", "digits standardized")
    ]
    return found + [
        Row(f"bound, {model} reverse model", {"kind": "bound", "model": model, **GAUSSIAN, "draws": draws})
        for model in ("exact", "wider", "wrong")
    ]


def shares(below: Mixture, alpha_bar: float, step_variance: float) -> dict[str, float]:
    """Return Var E[target|z_ℓ]/Var target for each target, from ∫ p (∂ log p)², and for a linear map of z_ℓ."""
    above = below.at(1 - step_variance)
    p, score = above.density(GRID), above.score(GRID)
    step = GRID[1] - GRID[0]
    information = float((p * score**2).sum() * step)
    mean = (GRID + step_variance * score) / math.sqrt(1 - step_variance)
    explained = float((p * (mean - below.mean) ** 2).sum() * step)
    return {
        "share_eps": (1 - alpha_bar * (1 - step_variance)) * information,
        "share_eps_linear": (1 - alpha_bar * (1 - step_variance)) / above.variance,
        "share_step_eps": step_variance * information,
        "share_previous": explained / below.variance,
        "share_previous_linear": (1 - step_variance) * below.variance / above.variance,
    }


def one_step(config: dict[str, Any], seed: int) -> Outcome:
    """Compute E[z_{ℓ−1}|z_ℓ] from either noise and from the wrong one, and shares by quadrature and by draws."""
    s, bar, z = config["step_variance"], config["alpha_bar"], config["z"]
    below, rng = EXAMPLE.at(bar), np.random.default_rng(seed)
    above = below.at(1 - s)
    step = tables.from_betas(np.array([1 - bar, s])).at(jnp.array([1]))
    at, eps = jnp.array([z]), -step.frm.sigma * above.score(np.array([z]))
    exact = mixture.reverse_step(below, s, np.array([z, 0.2]))
    by_quadrature = float(((exact.previous * exact.density).sum(1) / exact.density.sum(1))[0])
    small, large = (float(jnp.exp(v[0])) for v in reverse.log_variances(step))
    x, noise, own = EXAMPLE.sample(rng, config["draws"]), *rng.standard_normal((2, config["draws"]))
    previous = math.sqrt(bar) * x + math.sqrt(1 - bar) * noise
    drawn = math.sqrt(1 - s) * previous + math.sqrt(s) * own
    all_steps = (drawn - math.sqrt(bar * (1 - s)) * x) / float(step.frm.sigma[0])
    score = above.score(drawn)
    measured = {
        "mean_exact": by_quadrature,
        "mean_by_eps": float(posterior(at, eps, step.frm, step.to, step.delta)[0][0]),
        "mean_by_step_eps": float(per_step.previous_from_step_eps(at, per_step.step_eps_from_eps(eps, step), step)[0]),
        "mean_mixed_up": float(per_step.previous_from_step_eps(at, eps, step)[0]),
        "variance_at_0.2": float(exact.variance[1]),
        "beta_tilde": small,
        "beta": large,
        **shares(below, bar, s),
    }
    return Outcome(
        {name: Measured(value) for name, value in measured.items()}
        | {
            "share_eps_by_draws": mean_of(all_steps**2 - (all_steps + step.frm.sigma[0].item() * score) ** 2),
            "share_step_eps_by_draws": mean_of(own**2 - (own + math.sqrt(s) * score) ** 2),
        }
    )


def losses_of(weights: per_step.Weights, step: Transition) -> dict[str, tuple[str, np.ndarray]]:
    """Return {loss: (target, weight of its squared error by level)}."""
    to_step = np.asarray(per_step.step_share(step))
    ones = np.ones_like(to_step)
    return {
        "ε, L_simple": ("eps", ones),
        "ε, bound": ("eps", np.asarray(weights.eps)),
        "ε_step, unweighted": ("step_eps", ones),
        "ε_step, bound": ("step_eps", np.asarray(weights.step_eps)),
        "ε_step, ‖z_{ℓ−1} − μ‖²": ("step_eps", np.asarray(weights.step_eps / weights.previous)),
        "z_{ℓ−1}, bound": ("previous", np.asarray(weights.previous)),
    }


def chain(config: dict[str, Any], seed: int) -> Outcome:
    """Compute, by level, shares and 2 w √(share · Var target), the RMS of the expected gradient at output 0."""
    betas = CHAINS[config["chain"]]
    bars = np.concatenate([[1.0], np.exp(np.cumsum(np.log1p(-betas)))])
    found = [shares(EXAMPLE.at(bars[k]), bars[k], b) for k, b in enumerate(betas)]
    share = {metric: np.array([f[metric] for f in found]) for metric in found[0]}
    step = tables.from_betas(betas).at(jnp.arange(len(betas)))
    weights = per_step.weights(jnp.log(jnp.asarray(betas)), step)
    variance = {"eps": 1.0, "step_eps": 1.0, "previous": bars[:-1] * EXAMPLE.variance + 1 - bars[:-1]}
    gradient = {
        loss: 2 * w * np.sqrt(share[f"share_{target}"] * variance[target])
        for loss, (target, w) in losses_of(weights, step).items()
    }
    measured = {"levels": float(len(betas))} | {f"mean_{metric}": float(v.mean()) for metric, v in share.items()}
    for level in LEVELS_SHOWN:
        if level <= len(betas):
            measured[f"weight_eps_{level}"] = float(weights.eps[level - 1])
            measured[f"weight_step_eps_{level}"] = float(weights.step_eps[level - 1])
    shown = np.unique(np.geomspace(1, len(betas), 60).astype(int))
    thin = lambda values: np.asarray([float(f"{v:.4g}") for v in values[shown - 1]]).tolist()
    curves = {"level": shown.tolist()} | {metric: thin(v) for metric, v in share.items()}
    curves |= {f"gradient, {loss}": thin(v) for loss, v in gradient.items()}
    return Outcome({metric: Measured(value) for metric, value in measured.items()}, curves)


def single(config: dict[str, Any], seed: int) -> Outcome:
    """Compute the distance of p(z_{ℓ−1}|z_ℓ) from Gaussians with its mean, and how often it is multimodal."""
    step_variance, alpha_bar = config["step_variance"], config["alpha_bar"]
    step = mixture.reverse_step(EXAMPLE.at(alpha_bar), step_variance)
    matched, lecture = (mixture.distances(step, v) for v in (step.variance, step_variance))
    average = lambda values: Measured(float(values @ step.weight))
    measured = {
        "kl_own_variance": average(matched[0]),
        "tv_own_variance": average(matched[1]),
        "kl_step_variance": average(lecture[0]),
        "tv_step_variance": average(lecture[1]),
        "share_multimodal": average(mixture.modes(step.density) > 1),
    }
    curves = {}
    if step_variance in SHOWN:
        at = mixture.reverse_step(EXAMPLE.at(alpha_bar), step_variance, np.array([PLACE]), 161)
        curves = {
            "previous": common.rounded(at.previous[0], 4),
            "density": common.rounded(at.density[0], 4),
            "mean": float(at.mean[0]),
            "variance": float(at.variance[0]),
        }
    return Outcome(measured, curves)


def whole(config: dict[str, Any], seed: int) -> Outcome:
    """Compute the loss of the bound by Gaussian reverse steps over a chain, Σ_ℓ E KL in nats, and KL(z_L ‖ N(0, 1))."""
    step_variance, remaining = config["step_variance"], config["remaining"]
    levels = len(tables.constant_betas(step_variance, remaining))
    loss = np.zeros(2)
    for level in range(levels):
        step = mixture.reverse_step(EXAMPLE.at((1 - step_variance) ** level), step_variance)
        loss += [mixture.distances(step, v)[0] @ step.weight for v in (step.variance, step_variance)]
    last = EXAMPLE.at((1 - step_variance) ** levels)
    p = last.density(GRID)
    prior = float((p * (np.log(p) + 0.5 * GRID**2 + 0.5 * math.log(2 * math.pi))).sum() * (GRID[1] - GRID[0]))
    found = {"levels": levels, "loss_own_variance": loss[0], "loss_step_variance": loss[1], "prior": prior}
    return Outcome({name: Measured(float(value)) for name, value in found.items()})


MEASUREMENTS: dict[str, Callable[[dict[str, Any], int], Outcome]] = {
    "step": one_step,
    "chain": chain,
    "single": single,
    "whole": whole,
    "limit": gaussian_chain.limit,
    "variance": gaussian_chain.variance_of_z,
    "bound": gaussian_chain.bound,
}


def measure(row: Row, seed: int, workdir: epath.Path) -> Outcome:
    with jax.enable_x64(True):
        return MEASUREMENTS[row.config["kind"]](dict(row.config), seed)


EXPERIMENT = common.Experiment(
    "ddpm_sde",
    "The lecture's chain on densities that are known",
    "A mixture of three Gaussians in one dimension; nothing is trained. `share` is the part of a target's variance "
    "that any network could explain from z_ℓ: ε of all steps, ε of one step, z_{ℓ−1}; `linear` is what a linear map "
    "of z_ℓ explains of it already. `mean_mixed_up` takes the noise of all steps for that of one. `kl` and `tv` are "
    "distances of the true reverse step from the Gaussian with its mean and its own variance, or σ²; the `loss` of a "
    "whole chain is Σ E KL, what its bound is above the entropy, apart from `prior`. All in nats; draws have errors, "
    "quadrature has none.",
    lambda scale: f"mixture of three Gaussians, variance {EXAMPLE.variance:.3f} (closed form); pixels of digits",
    rows,
    measure,
    plot,
)

if __name__ == "__main__":
    common.main(EXPERIMENT)
