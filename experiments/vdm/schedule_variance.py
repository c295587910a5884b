"""The variance of the bound's estimate before and after VDM's appendix I.2.

With T = ∞ the path of γ between its endpoints changes the variance of the estimate but not the bound. Here
only the path is trained and network and endpoints are fixed, so that the bound must not change:

  * x ~ N(0, 1/3 I) in 64 dimensions with the exact denoiser, where the minimal variance is known;
  * a trained digits network.

Var(L) is the variance of a single estimate ½ γ′ ‖ε − ε̂‖² at independent t (stratified times would reduce it).

    python -m experiments.vdm.schedule_variance --mini --seeds=1
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath
from matplotlib.figure import Figure

from experiments import common, models
from experiments.common import Measured, Outcome, Results, Row, mean_of, variance_of
from experiments.vdm import gaussian
from vdm_jax import conditioning, data
from vdm_jax.core.method import Context
from vdm_jax.diffusion import losses, schedules
from vdm_jax.keys import example_keys

EXACT: dict[str, Any] = {"dimensions": 64, "gamma_0": -8.0, "gamma_1": 5.0, "variance": 1 / 3}
DRAWS, FEATURES, POINTS = 200_000, 64, np.linspace(0, 1, 41)
PATH_STEPS = {"mini": 200, "paper": 2000}
PASSES = {"mini": 32, "paper": 10}
PATHS = ("linear", "learned", "best")


def rows(scale: str) -> list[Row]:
    overrides = {"schedule.kind": "linear", "evaluation.passes": PASSES[scale]}
    model = models.identity(models.FILES[scale], overrides)
    return [Row(f"exact denoiser, {path} γ", {**EXACT, "path": path, "draws": DRAWS}) for path in PATHS] + [
        Row(f"trained network, {path} γ", {**model, "path": path, "path_steps": PATH_STEPS[scale]})
        for path in PATHS[:2]
    ]


def descend(loss: Any, shape: Any, inputs: Any, steps: int, rate: float) -> Any:
    """Run Adam on the leaves of a path; loss: (leaves, input) → scalar, inputs: one per step."""
    optimizer = optax.adam(optax.cosine_decay_schedule(rate, steps))

    @jax.jit
    def step(shape: Any, state: Any, one: Any) -> tuple[Any, Any]:
        updates, state = optimizer.update(jax.grad(loss)(shape, one), state)
        return optax.apply_updates(shape, updates), state

    state = optimizer.init(shape)
    for _, one in zip(range(steps), inputs, strict=False):
        shape, state = step(shape, state, one)
    return shape


def exact_path(path: str, seed: int) -> Any:
    """Return t → (γ, γ′) of the Gaussian panel."""
    ends = EXACT["gamma_0"], EXACT["gamma_1"]
    if path == "best":
        return lambda t: map(jnp.float32, gaussian.best_path(t, *ends, EXACT["variance"]))
    schedule = schedules.linear(*ends)
    if path == "learned":
        key, batch = jax.random.key(seed), 256
        first, last = map(jnp.float32, ends)
        whole = lambda leaves: schedules.Schedule(first, last, schedules.Monotone(**leaves))

        def loss(leaves: Any, number: Any) -> jax.Array:
            t_key, noise_key = jax.random.split(jax.random.fold_in(key, number))
            t = jax.random.uniform(t_key, (batch,))
            gamma, dgamma = schedules.minimize_variance(whole(leaves), t, 1 / batch)
            error = gaussian.squared_error(noise_key, gamma, EXACT["dimensions"], EXACT["variance"])
            return jnp.mean(losses.continuous_weight(dgamma) * error)

        schedule = whole(descend(loss, schedules.init_monotone(key, FEATURES), range(1500), 1500, 0.2))
    return lambda t: (schedule.gamma(t), schedule.dgamma(t))


def exact(path: str, seed: int) -> Outcome:
    """Compute Var(L) by draws and by quadrature, in nats²."""
    path_of = exact_path(path, seed)
    t_key, noise_key = jax.random.split(jax.random.key(seed))
    gamma, dgamma = path_of(jax.random.uniform(t_key, (DRAWS,)))
    error = gaussian.squared_error(noise_key, gamma, EXACT["dimensions"], EXACT["variance"])
    values = np.asarray(losses.continuous_weight(dgamma) * error, np.float64)
    midpoints = jnp.asarray((np.arange(100_000) + 0.5) / 100_000)
    where, slope = map(np.asarray, path_of(midpoints))
    quadrature = gaussian.loss_variance(where, slope, EXACT["dimensions"], EXACT["variance"])
    measured = {
        "variance_nats2": variance_of(values),
        "variance_by_quadrature": Measured(quadrature),
        "diffusion_nats": mean_of(values),
    }
    return Outcome(measured, curve(np.asarray(next(iter(path_of(POINTS))))))


def curve(gamma: np.ndarray) -> dict[str, Any]:
    return {"t": common.rounded(POINTS, 4), "gamma": common.rounded(gamma, 4)}


def learn_path(model: models.Model, steps: int, seed: int) -> models.Model:
    """Train the path by ∇E[L²] of the training loss with fixed network and endpoints."""
    fields = {"kind": "learned_monotone", "minimize_variance": True, "features": FEATURES}
    section, key = model.config.schedule, jax.random.key(seed)
    ends = {"gamma_0": jnp.float32(section.gamma_0), "span": jnp.float32(section.gamma_1 - section.gamma_0)}
    under = lambda shape: models.with_schedule(model, fields, {**ends, "shape": shape})
    shape = schedules.init_monotone(key, FEATURES)
    whole, size = under(shape), model.config.data.batch_size
    loss_of = whole.method.phases[0].loss

    def loss(shape: Any, one: Any) -> jax.Array:
        number, batch = one
        step_key, index = jax.random.fold_in(key, number), jnp.arange(size)
        context = Context(example_keys(step_key, index), step_key, index, size)
        params = {"network": whole.params["network"], "schedule": {**ends, "shape": shape}}
        return jnp.mean(loss_of(params, (), batch, context)[0])

    dataset = data.load(model.config.data.name, model.config.data.split, path=model.config.data.path)
    batches = data.train_iterator(dataset, seed=seed, batch_size=size)
    inputs = ((n, conditioning.batch_of(model.method.conditions, batch)) for n, batch in enumerate(batches))
    return under(descend(loss, shape, inputs, steps, 0.05))


def measure(row: Row, seed: int, workdir: epath.Path) -> Outcome:
    if "draws" in row.config:
        return exact(row.config["path"], seed)
    model, values = models.reference(row.config, seed, workdir)
    shift = np.zeros_like(values["total"])
    if row.config["path"] == "learned":
        model = learn_path(model, row.config["path_steps"], seed)
        after = models.likelihood(model, seed=seed)
        values, shift = after, after["total"] - values["total"]
    measured = {"variance_bits2": variance_of(values["diffusion"]), "bits_per_dim": mean_of(values["total"])}
    if row.config["path"] == "learned":
        measured["minus_linear_bits"] = mean_of(shift)
    return Outcome(measured, curve(np.asarray(model.method.schedule(model.params).gamma(jnp.asarray(POINTS)))))


def plot(results: Results) -> Figure:
    """Plot paths (top), and variances and bounds with errors (bottom)."""
    figure = Figure((10, 6.5))
    grid = figure.subplots(2, 2, height_ratios=(3, 2))
    for (upper, lower), exactly in zip(grid.T, (True, False), strict=True):
        entries = [e for e in results["rows"] if e["name"].startswith("exact") == exactly]
        names = [e["config"]["path"] for e in entries]
        for entry, style in zip(entries, ("k--", "C0-", "C1:")[: len(entries)], strict=True):
            curves = entry["runs"]["1"]["curves"]
            upper.plot(curves["t"], curves["gamma"], style, lw=2, label=f"{entry['config']['path']} path")
        title = "exact denoiser, 64 dimensions" if exactly else f"trained network, {results['data'].split(' ')[0]}"
        upper.set(xlabel="t", ylabel="γ(t)", title=title)
        upper.legend(frameon=False)
        unit, metric = ("nats²", "variance_nats2") if exactly else ("bits²/dim²", "variance_bits2")
        found = [e["measured"][metric] for e in entries]
        errors = [2 * m["standard_error"] for m in found]
        lower.barh(names, [m["mean"] for m in found], xerr=errors, color="C0", alpha=0.6, capsize=4)
        lower.set(xlabel=f"variance of the loss ({unit}), ± 2 standard errors")
        lower.invert_yaxis()
        lower.bar_label(lower.containers[-1], [f"{m['mean']:,.{0 if exactly else 2}f}" for m in found], padding=4)
        lower.locator_params(axis="x", nbins=6)
        lower.set_xlim(0, 1.25 * max(m["mean"] for m in found))
    figure.tight_layout()
    return figure


EXPERIMENT = common.Experiment(
    "schedule_variance",
    "Variance of the loss before and after appendix I.2",
    "Only the path of γ is trained; network and endpoints are held still, so the bound is the same number and "
    "`minus_linear_bits` (paired by image) must be 0 within its error. Variances are of one estimate of the diffusion "
    "term at independent t, over images, t and ε. For the exact denoiser the least variance is (2/D) E[L]².",
    models.data_of,
    rows,
    measure,
    plot,
)

if __name__ == "__main__":
    common.main(EXPERIMENT)
