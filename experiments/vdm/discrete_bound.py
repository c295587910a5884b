"""L_T against T: the discrete bound of VDM §4 falls to the continuous one like 1/T.

    L_T − L_∞ ≈ (Δ/2) L_∞ + (Δ/4) (m(1) − m(0)),    Δ = (γ₁ − γ₀)/T,    m(t) = E‖ε − ε̂‖²/D

One trained network is evaluated at every T on the same images, the same ε and the same u, t = ⌈uT⌉/T,
so that the paired difference has a small error. For x ~ N(0, 1/3) and the exact denoiser
m = sigmoid(ln s² − γ), and L_T is known in closed form.

    python -m experiments.vdm.discrete_bound --mini --seeds=1
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from matplotlib.figure import Figure

from experiments import common, models
from experiments.common import Measured, Outcome, Results, Row, mean_of
from experiments.vdm import gaussian
from vdm_jax import conditioning
from vdm_jax.data import eval_batches, load
from vdm_jax.diffusion import decoders, losses, prediction, schedules, times
from vdm_jax.diffusion.process import noise, q_sample
from vdm_jax.keys import example_keys, normal_like

STEPS = (10, 30, 100, 300, 1000, 3000, 0)  # 0 is ∞
PASSES = {"mini": 32, "paper": 10}
GAMMA_0, GAMMA_1, VARIANCE, DRAWS = -13.3, 5.0, 1 / 3, 1_000_000  # the exact denoiser's panel


def label(steps: int) -> str:
    return f"T = {steps}" if steps else "T = ∞"


def rows(scale: str) -> list[Row]:
    found = []
    for steps in STEPS:
        overrides = {
            "schedule.kind": "linear",
            "evaluation.num_timesteps": steps,
            "evaluation.passes": PASSES[scale],
        }
        found.append(Row(label(steps), models.identity(models.FILES[scale], overrides)))
    gaussian = {"gamma_0": GAMMA_0, "gamma_1": GAMMA_1, "variance": VARIANCE, "draws": DRAWS}
    return found + [Row(f"exact denoiser, {label(steps)}", {**gaussian, "steps": steps}) for steps in STEPS]


@lru_cache(maxsize=2)
def error_at(model: models.Model, t: float, seed: int) -> float:
    """Return m(t) on the first test images."""
    config = model.config
    dataset = load(config.data.name, config.evaluation.split, path=config.data.path)
    batch = next(eval_batches(dataset, batch_size=min(256, dataset.num_examples)))

    @jax.jit
    def error(params: Any, image: jax.Array) -> jax.Array:
        at = jnp.full(len(image), t)
        level = noise(model.method.schedule(params).gamma(at), at)
        eps = normal_like(example_keys(jax.random.key(seed), jnp.arange(len(image))), dataset.shape, 0)
        z = q_sample(decoders.encode(image, dataset.vocabulary), eps, level)
        assert model.method.denoise is not None
        cond = conditioning.of_batch(model.method.conditions, {"x": image, "cond": {"augmented": at * 0}}, lambda x: x)
        raw = model.method.denoise(params)(z, level, cond)
        return jnp.mean(jnp.square(eps - prediction.split(raw, z, level, config.model.prediction).eps))

    return float(error(model.params, batch["image"]))


def measure(row: Row, seed: int, workdir: epath.Path) -> Outcome:
    if "steps" in row.config:
        return exact(row.config["steps"], seed)
    steps = row.config["overrides"]["evaluation.num_timesteps"]
    model, limit = models.reference(row.config, seed, workdir)
    values = models.likelihood(model, seed=seed, num_timesteps=steps) if steps else limit
    measured = {"bits_per_dim": mean_of(values["total"]), "diffusion_bits": mean_of(values["diffusion"])}
    if steps:
        span = model.config.schedule.gamma_1 - model.config.schedule.gamma_0
        m_0, m_1 = (error_at(model, t, seed) / np.log(2) for t in (0.0, 1.0))
        measured["minus_continuous_bits"] = mean_of(values["diffusion"] - limit["diffusion"])
        measured["law_bits"] = law(span, steps, limit["diffusion"].mean(), m_0, m_1)
    return Outcome(measured)


def law(span: float, steps: int, limit: float, m_0: float, m_1: float) -> Measured:
    """Return (Δ/2) L_∞ + (Δ/4)(m(1) − m(0)) in the unit of L_∞ and m."""
    return Measured(float(span / steps * (limit / 2 + (m_1 - m_0) / 4)))


def exact(steps: int, seed: int) -> Outcome:
    """Compute the library's losses on Gaussian draws and the closed form, in nats/dim."""
    schedule = schedules.linear(GAMMA_0, GAMMA_1)
    noise_key, t_key = jax.random.split(jax.random.key(seed))
    u = jax.random.uniform(t_key, (DRAWS,))
    error_of = jax.jit(lambda t: gaussian.squared_error(noise_key, schedule.gamma(t), 1, VARIANCE))
    limit = np.asarray(losses.continuous_weight(schedule.dgamma(u)) * error_of(u), np.float64)
    closed = Measured(gaussian.bound(GAMMA_0, GAMMA_1, VARIANCE, steps))
    if not steps:
        return Outcome({"nats_per_dim": mean_of(limit), "closed_form_nats": closed})
    t = times.to_grid(u, steps)
    weight = losses.discrete_weight(schedule.delta(t, jnp.full((), 1 / steps)), steps)
    values = np.asarray(weight * error_of(t), np.float64)
    m_0, m_1 = (float(gaussian.mean_error(g, VARIANCE)) for g in (GAMMA_0, GAMMA_1))
    measured = {
        "nats_per_dim": mean_of(values),
        "closed_form_nats": closed,
        "minus_continuous_nats": mean_of(values - limit),
        "law_nats": law(GAMMA_1 - GAMMA_0, steps, gaussian.bound(GAMMA_0, GAMMA_1, VARIANCE), m_0, m_1),
    }
    return Outcome(measured)


def plot(results: Results) -> Figure:
    """Plot L_T − L_∞ against T, and its ratio to the law."""
    figure = Figure((10, 6))
    steps = [s for s in STEPS if s]
    panels = (
        ("", "bits", "trained network, digits test images"),
        ("exact denoiser, ", "nats", "exact denoiser, x ~ N(0, 1/3)"),
    )
    grid = figure.subplots(2, 2, sharex=True, height_ratios=(2, 1))
    for (upper, lower), (prefix, unit, title) in zip(grid.T, panels, strict=True):
        entries = {e["name"]: e["measured"] for e in results["rows"]}
        found = [entries[f"{prefix}{label(s)}"] for s in steps]
        gap = np.array([m[f"minus_continuous_{unit}"]["mean"] for m in found])
        error = np.array([m[f"minus_continuous_{unit}"]["standard_error"] for m in found])
        law = np.array([m[f"law_{unit}"]["mean"] for m in found])
        upper.errorbar(steps, gap, 2 * error, fmt="o", ms=4, capsize=4, label="measured, ± 2 standard errors")
        upper.plot(steps, law, "k--", lw=1, label=r"$(\Delta/2)\,L_\infty + (\Delta/4)(m(1) - m(0))$")
        upper.set(xscale="log", yscale="log", ylabel=rf"$L_T - L_\infty$ ({unit}/dim)", title=title)
        upper.legend(frameon=False)
        lower.errorbar(steps, gap / law, 2 * error / law, fmt="o", ms=4, capsize=4)
        lower.axhline(1, color="k", ls="--", lw=1)
        lower.set(xlabel="T", ylabel="measured / law", ylim=(0.9, 2.1))
    figure.tight_layout()
    return figure


EXPERIMENT = common.Experiment(
    "discrete_bound",
    "The discrete bound against T",
    "Same images, noise and times (t = ⌈uT⌉/T) at every T; `minus_continuous` is the paired difference L_T − L_∞ of "
    "the diffusion term and `law` is (Δ/2) L_∞ + (Δ/4)(m(1) − m(0)). Below: Gaussian data of variance 1/3 and the "
    "exact denoiser, γ from −13.3 to 5, where L_T has a closed form.",
    models.data_of,
    rows,
    measure,
    plot,
)

if __name__ == "__main__":
    common.main(EXPERIMENT)
