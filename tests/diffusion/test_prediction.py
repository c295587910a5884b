import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.diffusion.closed_forms import exact_eps, level, marginal
from vdm_jax.diffusion import prediction
from vdm_jax.diffusion.process import VE, VP, posterior, q_sample

LEVELS = np.array([-13.3, -2.0, 0.5, 5.0])


def example(process=VP):
    rng = np.random.default_rng(0)
    x, eps = (jnp.asarray(rng.standard_normal((4, 3, 3, 2))) for _ in range(2))
    noise = level(LEVELS, process)
    return x, eps, noise, q_sample(x, eps, noise)


def raw_output(kind, x, eps, noise):
    return {
        "eps": eps,
        "x": x,
        "v": prediction.v_from(x, eps, noise),
        "score": prediction.score_from_eps(eps, noise),
        "velocity": eps - x,
    }[kind]


@pytest.mark.parametrize("process", [VP, VE], ids=["vp", "ve"])
@pytest.mark.parametrize("kind", prediction.KINDS)
def test_split_of_the_true_output_gives_x_and_eps_back(kind, process, x64):
    x, eps, noise, z = example(process)
    out = prediction.split(raw_output(kind, x, eps, noise), z, noise, kind)
    np.testing.assert_allclose(out.x, x, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(out.eps, eps, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize("kind", prediction.KINDS)
def test_split_of_any_output_satisfies_z_equals_alpha_x_plus_sigma_eps(kind, clip, x64):
    _, _, noise, z = example()
    raw = jnp.asarray(np.random.default_rng(1).standard_normal(z.shape))
    out = prediction.split(raw, z, noise, kind)
    if clip:
        out = prediction.clipped(out, z, noise, clip)
    np.testing.assert_allclose(q_sample(out.x, out.eps, noise), z, rtol=1e-10, atol=1e-10)
    if clip:
        assert np.abs(out.x).max() == 1.0
    else:
        np.testing.assert_allclose(raw_output(kind, out.x, out.eps, noise), raw, rtol=1e-9, atol=1e-9)


def test_a_kind_that_is_not_known_is_refused():
    _, _, noise, z = example()
    with pytest.raises(ValueError, match=r"'epsilon' is not one of \('eps', 'x', 'v', 'score', 'velocity'\)"):
        prediction.split(z, z, noise, "epsilon")


def test_score_of_a_gaussian_is_tweedies(x64):
    """−ε̂/σ = ∇ log N(z; 0, α² s² + σ²), and x̂ = (z + σ² score)/α."""
    _, _, noise, z = example()
    out = prediction.split(exact_eps(z, noise), z, noise)
    score = prediction.score_from_eps(out.eps, noise)
    column = lambda a: np.asarray(a).reshape(4, 1, 1, 1)
    log_density = lambda z: -0.5 * jnp.sum(z**2 / column(marginal(noise)))
    np.testing.assert_allclose(score, jax.grad(log_density)(z), rtol=1e-12)
    np.testing.assert_allclose(out.x, (z + column(noise.sigma) ** 2 * score) / column(noise.alpha), rtol=1e-9)


@pytest.mark.slow
def test_eps_is_the_noise_of_all_steps(x64):
    """Mixture π = (.3, .5, .2), μ = (−1.2, .3, 1.5), s = (.15, .2, .1), ᾱ 0.5 → 0.49, z = .9.

    E[z_{ℓ−1}|z_ℓ] = .893510. Reading the network's ε̂ as the noise of one step would give .830221.
    """
    weight, mean, deviation = np.array([[0.3, 0.5, 0.2], [-1.2, 0.3, 1.5], [0.15, 0.2, 0.1]])
    step, before = 0.02, 0.5
    after = before * (1 - step)
    log_density = lambda z: jax.nn.logsumexp(
        -0.5 * (z - np.sqrt(after) * mean) ** 2 / (after * deviation**2 + 1 - after)
        - 0.5 * np.log(after * deviation**2 + 1 - after)
        + np.log(weight)
    )
    z = 0.9
    to, frm = (level(np.log1p(-a) - np.log(a)) for a in (before, after))
    eps = -float(frm.sigma) * jax.grad(log_density)(z)
    ours, _ = posterior(jnp.full((1, 1), z), eps.reshape(1, 1), frm, to, frm.gamma - to.gamma)
    np.testing.assert_allclose(ours, 0.893510, atol=5e-7)
    wrong = (z - np.sqrt(step) * eps) / np.sqrt(1 - step)
    np.testing.assert_allclose(wrong, 0.830221, atol=5e-7)
