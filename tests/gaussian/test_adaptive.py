"""The sampler that chooses its steps: on the flow of Gaussian pixels, which is known, and on one that is not linear."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from ml_collections import ConfigDict

from tests.diffusion.closed_forms import marginal
from tests.training.runs import mesh_of, points
from vdm_jax import methods
from vdm_jax.conditioning import Guided
from vdm_jax.config import base, check, choose
from vdm_jax.errors import UserError
from vdm_jax.evaluation import report
from vdm_jax.gaussian import networks
from vdm_jax.keys import example_keys
from vdm_jax.methods import sde
from vdm_jax.plan import programs

jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
VARIANCE = 0.3


def gaussian(**sampling: Any) -> ConfigDict:
    """A VP SDE of continuous 2 × 2 images whose network, silent, leaves the exact ε̂ of N(0, s²)."""
    parts = {"method": "sde", "schedule.kind": "vp_sde", "schedule.t_min": 1e-3, "sampling.sampler": "adaptive"}
    config = choose(base(), parts)
    config.data.update(shape=(2, 2, 1), vocabulary=0)
    config.model.update(width=8, groups=4, depth=1, fourier=(), residual="pixel", data_variance=VARIANCE)
    config.sampling.update(num_steps=4, denoise=False, tolerance=1e-4, **sampling)
    check(config)
    return config


@pytest.mark.slow
def test_samples_are_what_the_flow_makes_of_their_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """z_0 = z_1 √(Var z_0/Var z_1) and the same between; evaluations are of 6 a step; an image is alone."""
    monkeypatch.setattr(networks, "apply", lambda net, params, keys, z, level, cond: jnp.zeros_like(z))
    config = gaussian()
    model, method = sde.model(config), methods.build(config)
    run = jit(lambda keys: method.sample({"network": {}}, keys, {}, 4, (0, 2)))
    keys = example_keys(jax.random.key(5), jnp.arange(4))
    x, path, evaluations = run(keys)
    chain = model.chain({"network": {}}, {}, 4)
    z_1, levels = chain.start(keys), chain.steps.to
    deviation = jnp.sqrt(marginal(levels, VARIANCE) / marginal(chain.steps.frm, VARIANCE)[0])
    for state, k in zip(path, (0, 2), strict=True):  # shown as z_s/√(α² + σ²), which is 1 for VP
        np.testing.assert_allclose(state, deviation[k] * z_1, atol=2e-3)
    np.testing.assert_allclose(x, deviation[3] / levels.alpha[3] * z_1, atol=1e-3)
    assert np.all(evaluations % 6 == 1) and np.all(evaluations > 18)
    other_x, _, others = run(keys[jnp.asarray([2, 2, 0, 2])])
    np.testing.assert_allclose(other_x, x[jnp.asarray([2, 2, 0, 2])], rtol=1e-5)
    np.testing.assert_array_equal(others, evaluations[jnp.asarray([2, 2, 0, 2])])


def moved(method: Any) -> Any:
    """Random parameters, far from those of a start."""
    return jax.tree.map(lambda a: a + 0.1, jit(method.init)(jax.random.key(0)))


@pytest.mark.slow
@pytest.mark.parametrize("guided", [False, True])
def test_it_agrees_with_many_steps_of_heun(guided: bool) -> None:
    """A VDM's perceptron on points, its flow bent by random weights; with a guidance weight for every image."""
    config = points()
    cond: Any = {"augmented": jnp.zeros(6)}
    if guided:
        choose(config, {"model.num_classes": 3, "model.null_class": True, "training.label_dropout": 0.1})
        cond = Guided({"label": jnp.arange(6) % 3}, {"label": jnp.arange(6.0) / 2})
    keys = example_keys(jax.random.key(1), jnp.arange(6))
    found = {}
    for sampler, steps in (("adaptive", 1), ("heun", 400)):
        choose(config, {"sampling.sampler": sampler} | ({"sampling.tolerance": 1e-4} if sampler == "adaptive" else {}))
        method = methods.build(config)
        found[sampler] = jit(method.sample, static_argnums=(3, 4))(moved(method), keys, cond, steps, ())
    x, _, evaluations = found["adaptive"]
    np.testing.assert_allclose(x, found["heun"][0], atol=2e-2 * float(jnp.abs(x).max()))
    assert np.all(evaluations % 6 == 1) and float(jnp.std(x)) > 0.1


@pytest.mark.slow
def test_evaluations_are_written_and_told(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    config = points()
    choose(config, {"sampling.sampler": "adaptive", "sampling.tolerance": 1e-2})
    config.sampling.update(num_images=5, num_steps=3)
    check(config)
    method, directory = methods.build(config), epath.Path(tmp_path)
    params = moved(method)
    report.write_samples(config, method, params, mesh_of(2), directory, 7)
    content = np.load(directory / "samples" / "7.npz")
    counts = content["evaluations"]
    assert content["samples"].shape == (5, 2) and counts.shape == (5,) and np.all(counts % 6 == 1)
    told = capsys.readouterr().out
    assert f"{counts.mean():.1f} on average, {counts.min()} to {counts.max()} (tolerance 0.01)" in told
    lost = jax.tree.map(lambda a: a * jnp.nan, params["network"])
    with pytest.raises(UserError, match=r"failed on 5 of 5 samples at config\.sampling\.tolerance=0\.01"):
        report.sample(config, method, {**params, "network": lost}, mesh_of(2), 5)


def test_what_has_no_flow_refuses_it_and_no_plan_knows_its_steps() -> None:
    config = gaussian()
    with pytest.raises(UserError, match="has a number of steps that depends on the weights"):
        programs.sample(config, jax.devices())
    choose(config, {"method": "ddpm", "schedule.kind": "ddpm_linear"})
    with pytest.raises(UserError, match=r"sampler='adaptive' does not go with config\.method='ddpm'"):
        check(config)
