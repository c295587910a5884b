"""Guidance by a noised CLIP: matching of levels, the gradient, several guides at once, and what is refused."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from ml_collections import ConfigDict

from tests.training import runs
from vdm_jax import config as configs
from vdm_jax import frozen, methods
from vdm_jax.conditioning.text import captions_of, from_config
from vdm_jax.core.method import Frozen
from vdm_jax.diffusion import guidance, tables
from vdm_jax.diffusion.process import Noise, expand, noise
from vdm_jax.errors import UserError
from vdm_jax.keys import example_keys
from vdm_jax.methods import clip, clip_guidance, guided

TABLE = tables.from_betas(tables.betas("ddpm_linear", num_timesteps=50, beta_min=0.1, beta_max=20.0))


def clip_config() -> ConfigDict:
    config = configs.choose(runs.clip(), {"model.noised": True, "data.shape": (16, 16, 3), "model.patch": 8})
    config.schedule.kind, config.schedule.num_timesteps = "ddpm_linear", 50
    configs.check(config)
    return config


def points(method: str = "vdm", **changes: Any) -> ConfigDict:
    parts: dict[str, Any] = {"method": method}
    parts |= {
        "vdm": {},
        "ddpm": {"schedule.kind": "ddpm_cosine", "schedule.num_timesteps": 8},
        "sde": {"schedule.kind": "vp_sde", "training.weighting": "simple"},
        "flow_matching": {"schedule.kind": "rectified_flow", "model.prediction": "velocity"},
    }[method]
    if method != "vdm":
        parts["sampling.sampler"] = {"ddpm": "ancestral", "sde": "euler_maruyama", "flow_matching": "euler"}[method]
    parts |= {"model.network": "mlp", "data.shape": (2,), "sampling.num_steps": 6}
    config = configs.choose(configs.base(), {**parts, **changes})
    config.data.name, config.data.vocabulary, config.model.width, config.model.depth = "swirl", 0, 8, 1
    configs.check(config)
    return config


# ---------------------------------------------------------------- levels


def test_a_latent_of_the_table_is_matched_to_its_own_level() -> None:
    index = jnp.array([0, 7, 49])
    z = jnp.ones((3, 4))
    found, rescaled = guidance.matched(z, TABLE.level(index), TABLE)
    np.testing.assert_array_equal(found, index)
    np.testing.assert_allclose(rescaled, z, rtol=1e-6)


def test_a_latent_of_another_process_gets_the_signal_of_its_level() -> None:
    """VE: α = 1 and σ² = e^γ, so z = x + σ ε at the γ of a level becomes α_ℓ x + σ_ℓ ε."""
    index = jnp.array([3, 20, 40])
    there = TABLE.level(index)
    here = Noise(gamma=there.gamma, alpha=jnp.ones(3), sigma=jnp.exp(there.gamma / 2), t=there.t)
    x, eps = jax.random.normal(jax.random.key(0), (2, 3, 5))
    found, rescaled = guidance.matched(x + expand(here.sigma, 2) * eps, here, TABLE)
    np.testing.assert_array_equal(found, index)
    expected = expand(there.alpha, 2) * x + expand(there.sigma, 2) * eps
    np.testing.assert_allclose(rescaled, expected, rtol=1e-4, atol=1e-5)


def test_levels_beyond_the_table_are_clamped_and_counted() -> None:
    ends = jnp.array([TABLE.gamma[0] - 5, TABLE.gamma[-1] + 5])
    found, _ = guidance.matched(jnp.ones((2, 3)), noise(ends, ends), TABLE)
    np.testing.assert_array_equal(found, [0, 49])
    method = methods.build(points(**{"schedule.kind": "linear", "schedule.gamma_0": -20.0, "schedule.gamma_1": 20.0}))
    params = jax.jit(method.init)(jax.random.key(0))
    assert method.chain is not None
    chain = method.chain(params, {"augmented": jnp.zeros(1)}, 40)
    gamma, low, high = np.asarray(chain.steps.frm.gamma), float(TABLE.gamma[0]), float(TABLE.gamma[-1])
    beyond = int(np.sum((gamma < low) | (gamma > high)))
    assert 0 < beyond < 40
    assert clip_guidance.clamped(chain, clip_config()).startswith(f"{beyond} of 40 steps are at noise levels beyond")


# ---------------------------------------------------------------- the gradient


@pytest.mark.slow
def test_the_gradient_is_that_of_the_scaled_cosine() -> None:
    """Along a direction, against finite differences of exp(log_scale) cos, at levels of another schedule."""
    config = clip_config()
    made, text = clip.model(config), from_config(config)
    assert text is not None
    params = jax.jit(made.init)(jax.random.key(0))
    ids = text.ids(["a small red circle", "blue"])
    guide = clip_guidance.of_clip(configs.choose(configs.base(), {"sampling.clip_model": "somewhere"}), config)
    z, direction = jax.random.normal(jax.random.key(1), (2, 2, 16, 16, 3))
    level = noise(jnp.array([-2.3, 0.7]), jnp.zeros(2))
    gradient = jax.jit(lambda z: guide.gradient(params, {"caption": ids})(z, level))(z)

    @jax.jit
    def cosine(z: Array) -> Array:
        index, rescaled = guidance.matched(z, level, TABLE)
        image = made.image_embeddings(params, rescaled, index)
        caption = made.text_states(params, ids).embedding
        caption = caption / jnp.linalg.norm(caption, axis=-1, keepdims=True)
        return jnp.exp(params["network"]["log_scale"]) * jnp.sum(image * caption, -1)

    step = 3e-2
    slope = (cosine(z + step * direction) - cosine(z - step * direction)) / (2 * step)
    np.testing.assert_allclose(jnp.sum(gradient * direction, (1, 2, 3)), slope, rtol=2e-2, atol=2e-2)
    assert float(jnp.abs(gradient).max()) > 1e-3


# ---------------------------------------------------------------- sampling


def pull(key: str, toward: tuple[float, float], scale: Any) -> guided.Guide:
    """A guide whose log p(c|z) is linear, ⟨toward, z⟩."""
    gradient = lambda params, values: lambda z, level: jnp.broadcast_to(jnp.asarray(toward), z.shape)
    condition = next(c for c in methods.build(points()).conditions if c.name == "augmented")
    part = Frozen(what="a line", field="sampling.clip_model", path="", config=points(), init=lambda key: {})
    return guided.Guide(key, gradient, scale, condition, part)


def samples(config: ConfigDict, guides: list[guided.Guide]) -> np.ndarray:
    method = guided.build(config, guides) if guides else methods.build(config)
    params = {**jax.jit(methods.build(config).init)(jax.random.key(0)), **{g.key: {} for g in guides}}
    assert method.chain is not None
    keys, cond = example_keys(jax.random.key(1), jnp.arange(4)), {"augmented": jnp.zeros(4)}
    chain_of = method.chain

    def run(params: Any) -> Array:
        from vdm_jax.core import chain

        return chain.run(chain_of(params, cond, 6), keys)[0]

    return np.asarray(jax.jit(run)(params))


@pytest.mark.parametrize("name", guided.METHODS)
def test_a_guide_moves_samples_of_every_diffusion_its_way_and_with_scale_0_not_at_all(name: str) -> None:
    config = points(name)
    plain, silent = samples(config, []), samples(config, [pull("clip", (1.0, -1.0), 0.0)])
    np.testing.assert_allclose(silent, plain, atol=1e-6)
    moved = samples(config, [pull("clip", (1.0, -1.0), 0.05)]) - plain
    assert np.all(moved.mean(0) * np.array([1, -1]) > 0)


def test_two_guides_are_the_sum_of_their_gradients() -> None:
    config = points("ddpm")
    both = samples(config, [pull("clip", (1.0, 0.0), 0.1), pull("classifier", (0.0, 1.0), 0.3)])
    one = samples(config, [pull("clip", (0.1, 0.3), 1.0)])
    np.testing.assert_allclose(both, one, atol=1e-5)


def test_an_ancestral_step_moves_its_mean_by_the_scaled_gradient_times_the_variance() -> None:
    """Last step of a table with the variance β: Σ = β_1, so z moves by s β_1 ∇."""
    config = points("ddpm", **{"model.variance": "beta"})
    method, line = methods.build(config), guided.build(config, [pull("clip", (1.0, -2.0), 0.5)])
    params = {**jax.jit(method.init)(jax.random.key(0)), "clip": {}}
    cond, z = {"augmented": jnp.zeros(3)}, jax.random.normal(jax.random.key(2), (3, 2))
    assert method.chain is not None and line.chain is not None
    steps = method.chain(params, cond, 8).steps
    transition = jax.tree.map(lambda a: a[3], steps)
    keys = example_keys(jax.random.key(1), jnp.arange(3))
    there = [made.chain(params, cond, 8).step(keys, z, transition) for made in (method, line)]  # type: ignore[misc]
    from vdm_jax.methods.ddpm import betas_of

    beta = betas_of(config)[8 - 1 - 3]
    expected = np.broadcast_to(0.5 * beta * np.array([1.0, -2.0]), (3, 2))
    np.testing.assert_allclose(there[1] - there[0], expected, rtol=1e-3, atol=1e-6)


# ---------------------------------------------------------------- captions and refusals


def test_captions_are_taken_in_turn() -> None:
    config = configs.choose(configs.base(), {"sampling.clip_model": "x", "sampling.caption": " a red circle| blue |"})
    assert captions_of(config.sampling.caption) == ["a red circle", "blue"]
    condition = clip_guidance.of_clip(config, clip_config()).condition
    ids = condition.request(config, 3, {})["caption"]
    np.testing.assert_array_equal(ids[0], ids[2])
    assert not np.array_equal(ids[0], ids[1])
    config.sampling.caption = " | "
    with pytest.raises(UserError, match=r"config\.sampling\.caption='' leaves the samples without a text"):
        condition.check_request(config)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model.noised": False}, "'x' is no CLIP of noised images"),
        ({"data.shape": (32, 32, 3)}, "config.data.shape=(16, 16, 3), but the CLIP 'x' was trained with (32, 32, 3)"),
        ({"data.vocabulary": 16}, "config.data.vocabulary=256, but the CLIP 'x' was trained with 16"),
    ],
)
def test_a_clip_that_does_not_fit_is_refused(changes: dict[str, Any], sentence: str) -> None:
    config = configs.choose(configs.base(), {"data.shape": (16, 16, 3), "data.vocabulary": 256})
    frozen.check_clip(config, clip_config(), "x")
    with pytest.raises(UserError, match=re.escape(sentence)):
        frozen.check_clip(config, configs.choose(clip_config(), changes), "x")


def test_a_diffusion_is_no_clip_and_the_adaptive_solver_is_not_guided() -> None:
    config = configs.choose(configs.base(), {"data.shape": (16, 16, 3), "data.vocabulary": 256})
    with pytest.raises(UserError, match="'x' is no CLIP of noised images"):
        frozen.check_clip(config, config, "x")
    config.sampling.sampler = "adaptive"
    with pytest.raises(UserError, match="solves the flow of the model alone"):
        frozen.check_clip(config, clip_config(), "x")
