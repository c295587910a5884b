"""Steps in float32 against themselves in float64, over whole chains and at γ from −20 to 20.

The levels of the float64 step are those of the float64 chain; z, the network's output and the noise are the same
float32 numbers. An error is relative to |z_s| + α_s + σ_s.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from vdm_jax.diffusion import adversarial, editing, prediction, process, reverse, samplers, schedules, sde_steps, tables
from vdm_jax.diffusion.process import SUB_VP, VE, VP, Noise, Process
from vdm_jax.diffusion.samplers import Step, Transition

WIDTH = 32  # numbers of an example
STEPS = 64  # of a chain, the noisiest and the last among them


def respaced(kind: str, levels: int, spacing: str) -> Transition:
    betas = {"cosine": tables.cosine_betas, "linear": tables.linear_betas}[kind](levels)
    return tables.from_betas(tables.merge(betas, tables.spaced(levels, spacing))).reverse()


def linear_gamma(low: float, high: float, count: int, process: Process = VP) -> Transition:
    level_of = lambda gamma: process_level(gamma, process)
    return samplers.transitions(schedules.linear(low, high), samplers.uniform_grid(count), level_of)


def process_level(gamma: Array, process: Process) -> Noise:
    return Noise(gamma, process.alpha(gamma), process.sigma(gamma), gamma)


Chain = Callable[[], Transition]

CHAINS: dict[str, Chain] = {
    "cosine 4000 at 250": lambda: respaced("cosine", 4000, "250"),
    "cosine 4000 at 4": lambda: respaced("cosine", 4000, "4"),
    "cosine 1000 at 25": lambda: respaced("cosine", 1000, "25"),
    "cosine 1000 at 3,5,11": lambda: respaced("cosine", 1000, "3,5,11"),
    "cosine 1000": lambda: respaced("cosine", 1000, "1000"),
    "linear 1000": lambda: respaced("linear", 1000, "1000"),
    "VDM at 250": lambda: linear_gamma(-13.3, 5, 250),
    "VDM at 1000": lambda: linear_gamma(-13.3, 5, 1000),
    "-20 to 20 at 100": lambda: linear_gamma(-20, 20, 100),
    "-20 to 20 at 4": lambda: linear_gamma(-20, 20, 4),
}
MARKED = [
    pytest.param(name, marks=[pytest.mark.slow] * (name not in ("cosine 4000 at 4", "VDM at 250", "-20 to 20 at 4")))
    for name in CHAINS
]
COSINE = [name for name in CHAINS if name.startswith("cosine") and " at " in name]
PROCESSES = {"vp": VP, "ve": VE, "sub_vp": SUB_VP}


def some(steps: Transition) -> Transition:
    """STEPS of the steps, from the first to the last; fewer are repeated."""
    count = len(steps.delta)
    places = np.arange(STEPS) % count if count < STEPS else np.linspace(0, count - 1, STEPS).round().astype(int)
    return jax.tree.map(lambda a: a[places], steps)


def rules(predict: samplers.Predict, process: Process = VP) -> dict[str, Step]:
    """Every step rule that takes a table's or a schedule's transitions."""
    of_x = lambda keys, z, step: adversarial.posterior_sample(predict(z, step.frm).x, z, samplers.normal(keys, z), step)
    return {
        "ancestral": samplers.ancestral(predict),
        **{f"reverse {v}": reverse.ancestral(predict, v) for v in ("posterior", "beta", 0.3, "learned")},
        **{f"ddim {eta}": samplers.ddim(predict, eta) for eta in (0.0, 0.5, 1.0)},
        "reverse diffusion": sde_steps.reverse_diffusion(predict),
        "posterior sample": of_x,
        "resampled": editing.resampled(lambda keys, z, step: z, 2),
    }


def ode_rules(predict: samplers.Predict, process: Process) -> dict[str, Step]:
    """The rules that need a small δ."""
    return {
        "euler": samplers.euler(predict, process),
        "heun": samplers.heun(predict, process),
        "euler_maruyama": sde_steps.euler_maruyama(predict, process),
    }


Rules = Callable[[samplers.Predict, Process], dict[str, Step]]


@cache
def compiled(made: Rules, process: Process, kind: str, clip: bool) -> Callable[..., dict[str, Array]]:
    """(z, network's output, steps) → z_s by every rule."""

    def run(z: Array, raw: Array, steps: Transition) -> dict[str, Array]:
        def predict(z: Array, level: Noise) -> prediction.Prediction:
            found = prediction.split(raw, z, level, kind)._replace(variance_head=jnp.full_like(z, 0.2))
            return prediction.clipped(found, z, level) if clip else found

        keys = jnp.zeros(STEPS, jnp.uint32)
        return {name: rule(keys, z, steps) for name, rule in made(predict, process).items()}

    return jax.jit(run)


def taken(
    made: Rules, chain: Chain, process: Process, kind: str, clip: bool, raw: np.ndarray, z: np.ndarray
) -> dict[str, np.ndarray]:
    """z_s by every rule in JAX's mode of the moment, from z [STEPS, WIDTH] and the network's output; in float64."""
    floats = [jnp.asarray(a, jnp.result_type(float)) for a in (z, raw)]
    found = compiled(made, process, kind, clip)(*floats, some(chain()))
    return {name: np.asarray(a, np.float64) for name, a in found.items()}


@pytest.fixture(autouse=True)
def same_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all precisions."""
    noise = np.random.default_rng(7).standard_normal((STEPS, WIDTH)).astype(np.float32)
    for module in (samplers, reverse, sde_steps, editing):
        monkeypatch.setattr(module, "normal", lambda keys, z: jnp.asarray(noise, z.dtype))
    monkeypatch.setattr(editing, "_fold", lambda keys, purpose: keys)


def example(chain: Chain) -> tuple[Transition, np.ndarray, np.ndarray, np.ndarray]:
    """(float64 levels, z, x̂, ε̂) with z = α x + σ ε rounded to float32 and x̂ near x, often beyond [−1, 1]."""
    with jax.enable_x64(True):
        steps = jax.tree.map(np.asarray, some(chain()))
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (STEPS, WIDTH))
    x[:, ::4] = np.sign(x[:, ::4])
    alpha, sigma = steps.frm.alpha[:, None], steps.frm.sigma[:, None]
    z = (alpha * x + sigma * rng.standard_normal(x.shape)).astype(np.float32)
    guess = x + 0.3 * rng.standard_normal(x.shape)
    return steps, z, guess, (z - alpha * guess) / sigma


def errors(
    made: Rules, chain: Chain, process: Process, kind: str, clip: bool, raw: np.ndarray, z: np.ndarray
) -> dict[str, np.ndarray]:
    """|float32 − float64|/(|float64| + α_s + σ_s) by rule, [STEPS, WIDTH]."""
    raw = raw.astype(np.float32)
    found = taken(made, chain, process, kind, clip, raw, z)
    with jax.enable_x64(True):
        exact, to = taken(made, chain, process, kind, clip, raw, z), some(chain()).to
    size = np.asarray(to.alpha + to.sigma)[:, None]
    return {name: np.abs(found[name] - exact[name]) / (size + np.abs(exact[name])) for name in exact}


@pytest.mark.slow
@pytest.mark.parametrize("name", MARKED)
def test_steps_from_x_keep_their_digits(name: str) -> None:
    """Whether x is what the network gives or a clipped guess from an ε that has nothing of z."""
    _, z, x, _ = example(CHAINS[name])
    eps = np.random.default_rng(1).standard_normal(z.shape)
    for kind, clip, raw in (("x", False, x), ("eps", True, 3 * eps)):
        for rule, error in errors(rules, CHAINS[name], VP, kind, clip, raw, z).items():
            assert error.max() < 1e-6, (rule, kind, clip, error.max(), error.max(axis=1).argmax())


@pytest.mark.slow
@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("clip", [False, True])
def test_steps_from_eps_lose_what_its_last_digit_says_of_x(name: str, clip: bool) -> None:
    """x = (z − σ ε)/α cancels where α is nearly 0, in any form: its error is a rounding of z over α, and no more."""
    steps, z, _, eps = example(CHAINS[name])
    scale = (steps.to.alpha / steps.frm.alpha)[:, None] * (np.abs(z) + np.abs(eps))
    for rule, error in errors(rules, CHAINS[name], VP, "eps", clip, eps, z).items():
        assert np.all(error < 1e-6 + 1.5e-7 * scale), (rule, error.max())


@pytest.mark.slow
@pytest.mark.parametrize("kind", PROCESSES)
def test_steps_of_all_processes_keep_their_digits_from_minus_20_to_20(kind: str) -> None:
    chain = lambda: linear_gamma(-20, 20, 100, PROCESSES[kind])
    _, z, x, eps = example(chain)
    both = lambda predict, process: rules(predict, process) | ode_rules(predict, process)
    for given, raw, clip in (("x", x, True), ("eps", eps, False)):
        for rule, error in errors(both, chain, PROCESSES[kind], given, clip, raw, z).items():
            # σ = e^{γ/2} of VE has the error of γ, 10⁻⁶ at 20
            assert error.max() < (3e-6 if kind == "ve" else 1e-6), (rule, given, clip, error.max())


@pytest.mark.parametrize("name", COSINE)
def test_the_noisiest_mean_of_a_cosine_chain_is_that_of_the_original(name: str) -> None:
    """Its coefficients √ᾱ_s β/(1 − ᾱ_t) and √α (1 − ᾱ_s)/(1 − ᾱ_t) from float64; by ε it is off by 10⁻⁵ and more."""
    steps, z, _, _ = example(CHAINS[name])
    x = np.sign(z)
    frm, to = (jax.tree.map(lambda a: a[:1], level) for level in (steps.frm, steps.to))
    alpha = (frm.alpha / to.alpha) ** 2
    of_x, of_z = to.alpha * (1 - alpha) / frm.sigma**2, np.sqrt(alpha) * to.sigma**2 / frm.sigma**2
    exact = of_x * x[:1] + of_z * z[:1]
    step = jax.tree.map(lambda a: a[:1], CHAINS[name]())
    found = prediction.with_x(prediction.Prediction(*map(jnp.asarray, (x[:1], x[:1]))), x[:1], z[:1], step.frm)
    for variance in ("posterior", "beta"):
        mean, _ = reverse.moments(jnp.asarray(z[:1]), found, step, variance)
        np.testing.assert_allclose(mean, exact, rtol=1e-7, atol=2e-8)
    by_eps, _ = process.posterior(jnp.asarray(z[:1]), found.eps, step.frm, step.to, step.delta)
    assert np.abs(by_eps - exact).max() > 1e-5


def test_coefficients_of_the_posterior_keep_their_digits_at_both_ends() -> None:
    """Of x and of z, alone, for steps of δ from 10⁻³ to 30 that end or begin anywhere from −20 to 20."""
    gamma, delta = np.meshgrid(np.linspace(-20, 20, 81), np.geomspace(1e-3, 30, 40))
    gamma, delta = (a.ravel().astype(np.float32) for a in (gamma, delta))

    def coefficients() -> tuple[np.ndarray, np.ndarray]:
        s, d = jnp.asarray(gamma, jnp.result_type(float)), jnp.asarray(delta, jnp.result_type(float))
        to, frm = process_level(s, VP), process_level(s + d, VP)
        one = jnp.ones((len(s), 1), s.dtype)
        mean = lambda z, x: np.asarray(process.posterior_of_x(z, x, frm, to, d)[0], np.float64)
        return mean(0 * one, one), mean(one, 0 * one)

    found = coefficients()
    with jax.enable_x64(True):
        exact = coefficients()
    for ours, right in zip(found, exact, strict=True):
        assert np.all((right > 0) & (right < 1))
        np.testing.assert_allclose(ours, right, rtol=1.2e-6)


def test_ddim_with_eta_1_is_ancestral_in_float32_where_steps_are_large() -> None:
    """1 + η² expm1(−δ) is e^{−δ} there, of which float32 keeps nothing beside 1."""
    chain = CHAINS["cosine 1000 at 3,5,11"]
    _, z, x, _ = example(chain)
    found = taken(rules, chain, VP, "x", True, x, z)
    np.testing.assert_allclose(found["ddim 1.0"], found["ancestral"], rtol=1e-6, atol=1e-6)
