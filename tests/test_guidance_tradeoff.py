"""The measurements of `guidance_tradeoff` where they are known, and the facts that its committed results must show."""

from __future__ import annotations

import json
import math
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import guidance_classifiers, guidance_models, guidance_tradeoff, models
from tests.methods.test_classifier import MEANS, SHAPE, SPREAD, K, settings
from vdm_jax import methods
from vdm_jax.diffusion.process import expand
from vdm_jax.methods import classifier_guidance, ddpm, networks
from vdm_jax.methods.base import example_keys
from vdm_jax.methods.conditioning import Guided
from vdm_jax.training import devices

RESULTS = pathlib.Path(guidance_tradeoff.__file__).parent / "results" / "guidance_tradeoff.json"
Metrics = dict[str, dict[str, Any]]


def committed() -> dict[str, Metrics]:
    """{row: {metric: {mean, standard_error, …}}}."""
    return {e["name"]: e["measured"] for e in json.loads(RESULTS.read_text("utf-8"))["rows"]}


class OfClass:
    """ε̂ of x ~ N(mean of the class that it is told, SPREAD² I)."""

    def __init__(self, config: Any) -> None:
        self.bar = np.cumprod(1 - ddpm.betas_of(config))

    def apply(self, _: Any, z: Any, t: Any, told: Any, *__: Any) -> Any:
        bar = expand(jnp.asarray(self.bar, z.dtype)[jnp.round(t).astype(int)], z.ndim)
        apart = z - jnp.sqrt(bar) * jnp.asarray(MEANS, z.dtype)[told]
        return jnp.sqrt(1 - bar) * apart / (bar * SPREAD**2 + 1 - bar)


@pytest.mark.parametrize("level", [0, 900])
def test_the_implicit_classifier_of_exact_predictions_is_the_exact_one(
    level: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Differences of the bound between labels are those of log p(z_s|c), −‖z_s − α_s m_c‖²/2(α_s² SPREAD² + σ_s²)."""
    monkeypatch.setattr(networks, "network", OfClass)
    config = settings(schedule__num_timesteps=2000)
    config.method = "ddpm"
    mesh = devices.make_mesh(1, devices=devices.in_order()[:1])
    model = models.Model(config, ddpm.build(config), {"network": {}}, mesh)
    bar = np.cumprod(1 - ddpm.betas_of(config))[level]
    rng = np.random.default_rng(0)
    x = MEANS[np.arange(6) % K] + SPREAD * rng.standard_normal((6, *SHAPE))
    z = (math.sqrt(bar) * x + math.sqrt(1 - bar) * rng.standard_normal(x.shape)).astype(np.float32)
    found = guidance_classifiers.implicit_logits(model, z, level, 300, 0)
    square = np.square(z[:, None] - math.sqrt(bar) * MEANS[None]).sum((2, 3, 4))
    exact = -square / (2 * (bar * SPREAD**2 + 1 - bar))
    apart = lambda a: a - a.mean(1, keepdims=True)
    np.testing.assert_allclose(apart(found), apart(exact), atol=0.1 * np.abs(apart(exact)).max())


@pytest.mark.slow
@pytest.mark.parametrize("by", ["classifier-free", "Σ"])
def test_samples_are_those_of_the_library(by: str) -> None:
    """One program for all strengths, and the methods that the command line samples with."""
    judge = settings(schedule__num_timesteps=20)
    config = judge.copy_and_resolve_references()
    config.method, config.model.variance, config.model.null_class = "ddpm", "learned", True
    config.training.label_dropout, config.sampling.clip, config.sampling.classifier_scale = 0.1, True, 2.0
    mesh = devices.make_mesh(1, devices=devices.in_order()[:1])
    weights = lambda c: jax.device_put(methods.build(c).init(jax.random.key(0)), devices.replicated(mesh))
    made = [models.Model(c, methods.build(c), weights(c), mesh) for c in (config, judge)]
    found, labels = guidance_models.images(
        guidance_models.Draw(by, 5), made[0], made[1] if by == "Σ" else None, 2.0, 6, 3
    )
    keys, told = example_keys(jax.random.key(3), jnp.arange(6)), jnp.asarray(labels, jnp.int32)
    if by == "Σ":
        sample = classifier_guidance.build(config, judge).sample
        params, cond = {**made[0].params, "classifier": made[1].params}, told
    else:
        sample, params, cond = made[0].method.sample, made[0].params, Guided(told, jnp.full(6, 2.0))
    assert sample is not None
    expected, _ = jax.jit(sample, static_argnums=(3, 4))(params, keys, cond, 5, ())
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.ptp(found) > 0.5 and labels.tolist() == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize("scale", ["mini", "paper"])
def test_what_is_compared_shares_its_levels_and_its_classes(scale: str) -> None:
    identities = [
        row.config[role] for row in guidance_tradeoff.rows(scale) for role in ("model", "judge") if role in row.config
    ]
    configs = [models.load_config(of["file"], of["overrides"]) for of in {str(of): of for of in identities}.values()]
    judge = next(c for c in configs if c.method == "classifier")
    diffusions = [c for c in configs if c.method == "ddpm"]
    assert len(configs) == 2 + len(guidance_tradeoff.P_UNCOND) and len(diffusions) == len(configs) - 1
    for config in diffusions:
        classifier_guidance.check(config, judge, "the judge")
