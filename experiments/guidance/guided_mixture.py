"""Three Gaussians on a line under growing guidance (Ho & Salimans 2022, figure 2; the lecture on guidance).

* the exact tilted densities p(x|c) p(c|x)^w, which the figure of the paper shows;
* samples of the flow and the SDE with exact and trained scores, which do not follow these densities;
* the effect of guidance on log p(c|x), log p(x) and log p(x|c) of samples;
* the classifier that is implicit in a trained model, against the exact one;
* classifier guidance with Σ per channel, and with a single σ².

  python -m experiments.guidance.guided_mixture --mini --seeds=3
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax import Array

from experiments import common
from experiments.common import Measured, Outcome, Row, mean_of
from experiments.ddpm.gaussian_chain import deviation_of
from experiments.guidance.guided_mixture_classifiers import by_errors, by_scores
from experiments.guidance.guided_mixture_model import GAMMA_0, GAMMA_1, LINE, PLANE, Classes, at, denoiser, split
from experiments.guidance.guided_mixture_plot import BINS, plot
from vdm_jax.diffusion import guidance, prediction, reverse, samplers, sde_steps, tables
from vdm_jax.diffusion.process import VE
from vdm_jax.diffusion.samplers import Transition

WEIGHTS = (0.0, 1.0, 3.0, 6.0)
SIZES = {
    "mini": {"exact": {"steps": 1000, "draws": 6000}, "trained": {"steps": 250, "draws": 3000}},
    "paper": {"exact": {"steps": 1000, "draws": 100_000}, "trained": {"steps": 1000, "draws": 50_000}},
}
LEVELS = (-6.0, -2.0, -1.0, 0.0, 1.0)
SPACINGS = (5, 10, 25, 100)
GUIDED = ("Σ of every channel", "one σ²", "conditional model")
GRID = np.linspace(-6, 6, 12_001)
RIGHT, MIDDLE = 2, 1


def rows(scale: str) -> list[Row]:
    found = [Row(f"tilted density, w = {w:g}", {"kind": "tilted", "w": w}) for w in WEIGHTS]
    for scores, size in SIZES[scale].items():
        for rule in ("flow", "SDE"):
            of = {"kind": "samples", "scores": scores, "rule": rule, **size}
            found += [Row(f"{rule}, {scores} scores, w = {w:g}", {**of, "w": w}) for w in WEIGHTS]
    draws = SIZES[scale]["exact"]["draws"]
    found += [Row(f"classifier at γ = {g:g}", {"kind": "classifier", "gamma": g, "draws": draws}) for g in LEVELS]
    of = {"kind": "errors", "draws": draws // 6, "noises": 256}
    found += [Row(f"classifier of x by ε-errors, {s} scores", {**of, "scores": s}) for s in ("exact", "trained")]
    return found + [
        Row(f"{by}, {n} steps", {"kind": "shift", "by": by, "steps": n, "draws": 4 * draws})
        for n in SPACINGS
        for by in GUIDED
    ]


def facts(x: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Return exact log p(c|x), log p(x), log p(x|c) of x [N], and whether the exact classifier is correct."""
    log = LINE.log_parts(x[:, None])
    own, marginal = log[np.arange(len(x)), labels], np.logaddexp.reduce(log, axis=1)
    return {
        "log_p_class": own - marginal,
        "log_p": marginal,
        "log_p_given_class": own - np.log(LINE.shares)[labels],
        "accuracy": (log.argmax(1) == labels).astype(np.float64),
    }


def tilted(config: dict[str, Any], seed: int) -> Outcome:
    """Compute moments of the normalized p(x|c) p(c|x)^w by quadrature, and their mixture for the figure."""
    means: dict[str, float] = {}
    density, mixture = {}, np.zeros_like(GRID)
    for k in range(3):
        of = facts(GRID, np.full(len(GRID), k))
        log = of["log_p_given_class"] + config["w"] * of["log_p_class"]
        weight = np.exp(log - log.max())
        density[k] = weight / weight.sum()
        mixture += LINE.shares[k] * density[k] / (GRID[1] - GRID[0])
        for name, value in of.items():
            means[name] = means.get(name, 0.0) + LINE.shares[k] * float(density[k] @ value)
        if k == MIDDLE:
            means["log_p_given_class_middle"] = float(density[k] @ of["log_p_given_class"])
    mean = float(density[RIGHT] @ GRID)
    moments = {"right_mean": mean, "right_deviation": math.sqrt(density[RIGHT] @ (GRID - mean) ** 2)}
    shown = np.abs(GRID) <= BINS[-1]
    curves = {"x": common.rounded(GRID[shown][::40], 3), "density": common.rounded(mixture[shown][::40], 4)}
    return Outcome({name: Measured(float(value)) for name, value in (moments | means).items()}, curves)


@lru_cache(maxsize=8)
def sampler(scores: str, rule: str, steps: int, draws: int, seed: int) -> Any:
    """Return w → (samples [N], labels): Euler steps on a grid uniform in γ, in the time t = σ² for which g = 1.

    They start from the exact class densities at t = 100, so that only guidance moves samples away from these classes.
    """
    labels = np.repeat(np.arange(3), np.round(LINE.shares * draws).astype(int))
    t = np.geomspace(math.exp(GAMMA_1), math.exp(GAMMA_0), steps + 1)
    start = LINE.draw(np.random.default_rng(seed), labels)
    start += math.sqrt(t[0]) * np.random.default_rng([seed, 1]).standard_normal(start.shape)
    denoise, convert = denoiser(scores, seed), split(scores)

    @jax.jit
    def run(w: Array, start: Array, classes: Array, keys: Array) -> Array:
        gamma = jnp.asarray(np.log(t), start.dtype)
        elapsed = jnp.asarray((t[:-1] - t[1:]) / t[:-1], start.dtype)
        plan = Transition(at(gamma[:-1]), at(gamma[1:]), elapsed, jnp.arange(steps), jnp.zeros_like(elapsed))
        predict = guidance.classifier_free(denoise, convert, classes, jnp.full_like(classes, 3), guidance_weight=w)
        step = samplers.euler(predict, VE) if rule == "flow" else sde_steps.euler_maruyama(predict, VE)
        return samplers.run(step, start, keys, plan)[0]

    keys = jax.random.split(jax.random.key(seed), len(labels))
    return lambda w: (np.asarray(run(jnp.asarray(w), jnp.asarray(start), jnp.asarray(labels), keys))[:, 0], labels)


def samples(config: dict[str, Any], seed: int) -> Outcome:
    """Evaluate samples by the exact classifier and densities."""
    x, labels = sampler(config["scores"], config["rule"], config["steps"], config["draws"], seed)(config["w"])
    right, of = x[labels == RIGHT], facts(x.astype(np.float64), labels)
    middle = of["log_p_given_class"][labels == MIDDLE]
    measured = {"right_mean": mean_of(right), "right_deviation": deviation_of(right)}
    measured |= {name: mean_of(value) for name, value in of.items()} | {"log_p_given_class_middle": mean_of(middle)}
    height, _ = np.histogram(x, BINS)
    return Outcome(measured, {"density": common.rounded(height / len(x) / np.diff(BINS), 4)})


def shift(config: dict[str, Any], seed: int) -> Outcome:
    """Draw ancestral samples of the right class in the plane with the exact Σ per channel; scale 1 targets p(x|c).

    They are from the unconditional model, shifted by Σ ∇ log p(c|z) or in the score, or from the conditional model.
    """
    draws, n = config["draws"], config["steps"]
    table = tables.linear_betas(1000)
    plan = tables.from_betas(tables.merge(table, tables.spaced(1000, str(n)))).reverse()
    labels = jnp.full(draws, RIGHT)
    unguided = samplers.predictor(PLANE.denoise, prediction.split, jnp.full(draws, 3))
    gradient = guidance.class_gradient(PLANE.logits, labels)

    def model(predict: samplers.Predict, classes: Classes = PLANE) -> reverse.Reverse:
        """Return reverse steps with Σ_i = σ²_{t|s}/α²_{t|s} (1 + σ²_{t|s} ∂²log p(z)/∂z_i²), the optimal variance."""

        def moments(z: Array, step: Transition) -> tuple[Array, Array]:
            mean, log_beta = reverse.gaussian(predict, "beta")(z, step._replace(floor=reverse.log_variances(step)[1]))
            beta, alpha = jnp.exp(log_beta), step.frm.alpha / step.to.alpha
            return mean, log_beta - 2 * jnp.log(alpha) + jnp.log1p(beta * classes.curvature(z, step.frm))

        return moments

    by = {
        "Σ of every channel": lambda: guidance.mean_shift(model(unguided), gradient, classifier_scale=1.0),
        "one σ²": lambda: model(guidance.classifier(unguided, gradient, classifier_scale=1.0)),
        "conditional model": lambda: model(
            samplers.predictor(PLANE.denoise, prediction.split, labels), PLANE.component(RIGHT)
        ),
    }[config["by"]]()

    @jax.jit
    def run(keys: Array) -> Array:
        start = samplers.prior_sample(keys, (2,), plan.frm.gamma[0])
        return samplers.run(reverse.drawn(by), start, jax.vmap(lambda k: jax.random.fold_in(k, 1))(keys), plan)[0]

    x = np.asarray(run(jax.random.split(jax.random.key(seed), draws)), np.float64)
    off = (x - PLANE.means[RIGHT]) / PLANE.deviations[RIGHT]
    measured = {}
    for name, value in zip(("broad", "narrow"), off.T, strict=True):
        measured[f"mean_off_{name}"], measured[f"deviation_{name}"] = mean_of(value), deviation_of(value)
    kl = 0.5 * np.sum(off.var(0) + off.mean(0) ** 2 - 1 - np.log(off.var(0)))
    return Outcome(measured | {"kl_of_moments": Measured(float(kl))})


MEASUREMENTS = {"tilted": tilted, "samples": samples, "classifier": by_scores, "errors": by_errors, "shift": shift}


def measure(row: Row, seed: int, workdir: epath.Path) -> Outcome:
    return MEASUREMENTS[row.config["kind"]](dict(row.config), seed)


EXPERIMENT = common.Experiment(
    "guided_mixture",
    "Three Gaussians under growing guidance",
    "Shares .3, .4, .3, means −1, 0, 1, deviations .35: the classes are the components. w is that of the classifier-"
    "free paper, 0 for the conditional model. `tilted density` is p(x|c) p(c|x)^w, exact, by quadrature: what the "
    "figure of the paper shows, and not what samples follow. Samples are of Euler steps of the probability flow and "
    "of the SDE (VE, t = σ² from 100 to 10⁻⁴) from the classes' own densities, with exact scores or with those of a "
    "small network trained with 20 % of its labels dropped. `right_` is of the class at 1; `log_p_class` is "
    "log p(c|x), `log_p` log p(x), `log_p_given_class` log p(x|c) (`_middle`: of the class at 0), all exact, nats, "
    "averaged over the classes; `accuracy` is of the exact classifier. Guidance raises p(c|x) and lowers p(x); at "
    "w = 6 it takes a trained network beyond its data, where networks of different seeds differ. "
    "The implicit classifier is Bayes' rule with the trained conditional scores, integrated over z, or with "
    "ε-errors; `kl` is of its p(c|z) from the exact one, nats. Last, ancestral steps in two channels of deviation .35 "
    "and .1 within a class: the unconditional model with its exact Σ and the exact classifier at scale 1, whose aim is "
    "the class's own density, and the conditional model. `_off` and `deviation_` are in units of the class's "
    "deviations, `kl_of_moments` is of the Gaussian with the samples' moments. With an exact classifier the score "
    "shift (one σ²) makes the exact conditional mean, the shift by Σ its first order.",
    lambda scale: "three Gaussians, closed form",
    rows,
    measure,
    plot,
)

if __name__ == "__main__":
    common.main(EXPERIMENT)
