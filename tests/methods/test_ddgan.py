"""What DDGAN's two turns judge and how it samples, with generators that are known; its ablations; what it refuses."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from tests.training.runs import gan, gan_images
from vdm_jax import api, methods
from vdm_jax import config as configs
from vdm_jax.core.method import Context
from vdm_jax.diffusion.process import posterior_of_x
from vdm_jax.errors import UserError
from vdm_jax.keys import example_keys
from vdm_jax.methods import ddgan

COUNT = 512


def context(phase: int = 0, variant: bool = False) -> Context:
    index = jnp.arange(COUNT)
    key = jax.random.fold_in(jax.random.key(3), phase)
    return Context(example_keys(key, index), key, index, COUNT, variant=variant)


def made(generate: Any, judge: Any = None, **changes: Any) -> ddgan.DDGAN:
    """A DDGAN whose networks are functions: generate(z, t, w), judge(z_s, z_t, t)."""
    config = gan()
    configs.choose(config, {name.replace("__", "."): value for name, value in changes.items()})
    configs.check(config)
    model = ddgan.model(config)
    network = lambda function: SimpleNamespace(apply=lambda variables, *inputs: function(*inputs))
    latent = lambda z, t, cond: generate(z, t, cond["latent"])
    return replace(model, generator=network(latent), discriminator=network(judge))


PARAMS: dict[str, Any] = {"generator": {}, "discriminator": {}}
POINT = jnp.asarray([0.6, -1.2])
BATCH = {"x": jnp.broadcast_to(POINT, (COUNT, 2)), "cond": {}}


def at_point(z: Array, t: Array, w: Array) -> Array:
    return jnp.broadcast_to(POINT, z.shape)


@pytest.mark.slow
def test_with_the_true_x_real_and_fake_are_two_draws_of_one_distribution() -> None:
    """At each level E[z_s] = α_s x and the residual of z_s given (z_t, x) has the posterior's variance, for both."""
    about = made(at_point).drawn(PARAMS, BATCH, context())
    assert about.z is not None
    level = np.round(np.asarray(about.t) * 4 - 0.5).astype(int)
    assert set(level) == {0, 1, 2, 3}
    steps = made(at_point).table.at(jnp.asarray(level))
    mean, deviation = posterior_of_x(about.z, BATCH["x"], steps.frm, steps.to, steps.delta)
    for drawn in (about.real, about.fake):
        residual = np.asarray(drawn - mean)
        np.testing.assert_allclose(residual[level == 0], 0, atol=1e-6)  # the data itself
        for n in (1, 2, 3):
            got = np.square(residual[level == n]).mean() / np.square(deviation[level == n][0])
            assert 0.75 < got < 1.3
    assert np.abs(np.asarray(about.real - about.fake))[level > 0].min() > 0


@pytest.mark.slow
def test_turns_draw_times_noise_and_latents_of_their_own() -> None:
    seen: list[np.ndarray] = []

    def generate(z: Array, t: Array, w: Array) -> Array:
        seen.append(np.asarray(w))
        return z

    model = made(generate)
    first, second = (model.drawn(PARAMS, BATCH, context(phase)) for phase in (0, 1))
    assert first.z is not None and second.z is not None
    assert 0.5 < np.mean(np.asarray(first.t) != np.asarray(second.t)) < 0.95
    for a, b in ((first.z, second.z), seen):
        assert np.abs(np.asarray(a) - np.asarray(b)).min() > 0
    rows = np.concatenate([seen[0], np.asarray(first.z)], axis=1)
    assert np.abs(np.corrcoef(rows.T)[:2, 2:]).max() < 0.2  # w is not z's noise


def test_losses_are_softplus_of_logits_and_the_penalty_that_of_the_real_pair() -> None:
    """D = a·z_s + b·z_t with ‖∇D‖² = ‖a‖²: penalty r/2 ‖a‖² on R1's variant alone."""
    a, b = jnp.asarray([0.5, -2.0]), jnp.asarray([1.0, 0.3])
    judge = lambda z_s, z_t, t, rows: z_s @ a + z_t @ b
    model = made(at_point, judge, training__r1=0.4)
    about = model.drawn(PARAMS, BATCH, context())
    real, fake = (np.asarray(z @ a + about.z @ b, np.float64) for z in (about.real, about.fake))
    softplus = lambda v: np.logaddexp(0, v)
    for variant, penalty in ((False, 0.0), (True, 0.4 / 2 * 4.25)):
        loss, aux = model.discriminator_loss(PARAMS, (), BATCH, context(variant=variant))
        np.testing.assert_allclose(loss, softplus(-real) + softplus(fake) + penalty, rtol=1e-5)
        np.testing.assert_allclose(aux["penalty"], penalty, rtol=1e-5)
    loss, _ = model.generator_loss(PARAMS, (), BATCH, context(variant=True))
    np.testing.assert_allclose(loss, softplus(-fake), rtol=1e-5)


def test_sampling_takes_t_steps_with_a_new_latent_in_each_and_ends_without_noise() -> None:
    told: list[tuple[float, np.ndarray]] = []

    def generate(z: Array, t: Array, w: Array) -> Array:
        jax.debug.callback(lambda t, w: told.append((float(t[0]), np.asarray(w))), t, w)
        return at_point(z, t, w)

    keys = example_keys(jax.random.key(0), jnp.arange(6))
    points, states = made(generate).sample(PARAMS, keys, {}, 4, (0, 3))
    jax.effects_barrier()
    assert [t for t, _ in told] == [1.0, 0.75, 0.5, 0.25]
    assert len({w.tobytes() for _, w in told}) == 4
    np.testing.assert_allclose(points, np.broadcast_to(POINT, (6, 2)), rtol=1e-6)
    np.testing.assert_array_equal(states[1], points)
    assert np.abs(np.asarray(states[0] - points)).min() > 1e-3


def test_ablations() -> None:
    """Direct: G gives z_s. Noise: x̂ = (z − σ ε̂)/α, so the true ε gives what the true x does. No latent: none is drawn.

    Augmented: D sees real and fake z_s at the same level and no z_t, and a sample is G's own answer to noise.
    """
    direct = made(lambda z, t, w: 3 * z, model__prediction="previous").drawn(PARAMS, BATCH, context())
    assert direct.z is not None
    np.testing.assert_array_equal(direct.fake, 3 * direct.z)

    true = made(at_point)
    level = lambda t: true.table.level(jnp.round(t * 4).astype(jnp.int32) - 1)
    eps = lambda z, t, w: (z - level(t).alpha[:, None] * POINT[None]) / level(t).sigma[:, None]
    noise = made(eps, model__prediction="eps").drawn(PARAMS, BATCH, context())
    expected = true.drawn(PARAMS, BATCH, context())
    np.testing.assert_allclose(noise.fake, expected.fake, rtol=1e-3, atol=2e-3)  # α is .007 at the last level

    widths = []
    made(lambda z, t, w: widths.append(w.shape[-1]) or z, model__latent=0).drawn(PARAMS, BATCH, context())
    assert widths == [0]

    shot = {"training__adversary": "augmented", "sampling__num_steps": 1}
    model = made(at_point, **shot)
    about = model.drawn(PARAMS, BATCH, context())
    assert about.z is None
    clean = np.asarray(about.t) < 0.25
    np.testing.assert_allclose(about.real[clean], BATCH["x"][clean], rtol=1e-6)
    np.testing.assert_allclose(about.fake[clean], BATCH["x"][clean], rtol=1e-6)
    assert np.abs(np.asarray(about.real - about.fake))[~clean].min() > 0
    points, _ = model.sample(PARAMS, example_keys(jax.random.key(0), jnp.arange(3)), {}, 1)
    np.testing.assert_array_equal(points, np.broadcast_to(POINT, (3, 2)))


WRONG: dict[str, dict[str, Any]] = {
    "config.sampling.num_steps=3, but the generator is trained for 4 steps": {
        "sampling.num_steps": 3,
    },
    "the generator is trained for 1 step; set it to 1": {"training.adversary": "augmented"},
    "config.data.batch_size=8 in 4 parts is not divisible into the discriminator's groups of 4; "
    "try config.data.batch_size=16": {"data.batch_size": 8, "training.accumulate": 4},
    "config.data.batch_size=18 in 3 parts is not divisible into the discriminator's groups of 4; "
    "try config.data.batch_size=24": {"data.batch_size": 18, "training.accumulate": 3},
    "config.data.batch_size=6 in 1 part is not divisible": {"data.batch_size": 6},
    "halves 8 × 8 pixels until they are 1/64": {"model.discriminator": "large"},
    "config.model.family='ncsnpp' is not a generator; set it to 'ddgan'": {"model.family": "ncsnpp"},
    "config.model.prediction='v' does not go with config.method='ddgan'": {"model.prediction": "v"},
    "config.model.discriminator_time=7 must be even": {"model.discriminator_time": 7},
    "takes a few large steps": {"schedule.num_timesteps": 1001, "sampling.num_steps": 1001},
}


@pytest.mark.parametrize("sentence", WRONG)
def test_what_makes_no_sense_is_a_sentence(sentence: str) -> None:
    config = configs.with_variant(gan_images(), "wrong", {"wrong": WRONG[sentence]})
    with pytest.raises(UserError) as error:
        configs.check(config)
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_small_batches_are_one_group() -> None:
    for count in (2, 3, 8):
        configs.check(configs.with_variant(gan_images(), "small", {"small": {"data.batch_size": count}}))


def test_a_notebook_cannot_ask_for_other_steps_or_a_likelihood() -> None:
    config = gan()
    model = api.Model(config, methods.build(config), {}, 0)
    with pytest.raises(UserError, match="the generator is trained for 4 steps"):
        model.sample(2, num_steps=5)
    with pytest.raises(UserError, match="no likelihood"):
        model.bits_per_dim(np.zeros((1, 2), np.float32))
    with pytest.raises(UserError, match="no probability flow"):
        model.denoise(jnp.zeros((1, 2)), 0.0)


SCORE = {"method": "ddpm", "schedule.kind": "ddpm_cosine", "model.prediction": "eps"}


def test_score_models_have_no_generator() -> None:
    config = configs.with_variant(gan_images(), "ddpm", {"ddpm": SCORE})
    with pytest.raises(UserError, match=r"config\.model\.family='ddgan' does not go with config\.method='ddpm'"):
        configs.check(config)
