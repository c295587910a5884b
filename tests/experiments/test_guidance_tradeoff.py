"""The measurements of `guidance_tradeoff` where they are known, and the facts that its committed results must show."""

from __future__ import annotations

import itertools
import json
import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import models
from experiments.guidance import guidance_classifiers, guidance_models, guidance_tradeoff
from tests.methods.test_classifier import MEANS, SHAPE, SPREAD, K, settings
from tests.results import RESULTS, clearly, measured
from vdm_jax import frozen, methods
from vdm_jax.conditioning import Guided
from vdm_jax.config import choose
from vdm_jax.diffusion.process import expand
from vdm_jax.gaussian import networks
from vdm_jax.keys import example_keys
from vdm_jax.methods import classifier_guidance, ddpm
from vdm_jax.runtime import devices

Metrics = dict[str, dict[str, Any]]


committed = partial(measured, "guidance_tradeoff")


class OfClass:
    """ε̂ of x ~ N(mean of the class that it is conditioned on, SPREAD² I)."""

    def __init__(self, config: Any) -> None:
        self.bar = np.cumprod(1 - ddpm.betas_of(config))

    def apply(self, _: Any, z: Any, t: Any, cond: Any, *__: Any) -> Any:
        bar = expand(jnp.asarray(self.bar, z.dtype)[jnp.round(t).astype(int)], z.ndim)
        apart = z - jnp.sqrt(bar) * jnp.asarray(MEANS, z.dtype)[cond["label"]]
        return jnp.sqrt(1 - bar) * apart / (bar * SPREAD**2 + 1 - bar)


@pytest.mark.parametrize("level", [0, 900])
def test_the_implicit_classifier_of_exact_predictions_is_the_exact_one(
    level: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Differences of the bound between labels are those of log p(z_s|c), −‖z_s − α_s m_c‖²/2(α_s² SPREAD² + σ_s²)."""
    monkeypatch.setattr(networks, "build", OfClass)
    config = choose(settings(schedule__num_timesteps=2000), {"method": "ddpm"})
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
    parts = {"method": "ddpm", "model.variance": "learned", "model.null_class": True, "sampling.clip": True}
    choose(config, parts)
    config.training.label_dropout, config.sampling.classifier_scale = 0.1, 2.0
    config.sampling.num_steps = 20
    mesh = devices.make_mesh(1, devices=devices.in_order()[:1])
    weights = lambda c: jax.device_put(methods.build(c).init(jax.random.key(0)), devices.replicated(mesh))
    made = [models.Model(c, methods.build(c), weights(c), mesh) for c in (config, judge)]
    found, labels = guidance_models.images(
        guidance_models.Draw(by, 5), made[0], made[1] if by == "Σ" else None, 2.0, 6, 3
    )
    keys, cond = example_keys(jax.random.key(3), jnp.arange(6)), {"label": jnp.asarray(labels, jnp.int32)}
    if by == "Σ":
        sample = classifier_guidance.build(config, judge).sample
        params, told = {**made[0].params, "classifier": made[1].params}, cond
    else:
        sample, params = made[0].method.sample, made[0].params
        told = Guided(cond, {"label": jnp.full(6, 2.0)})
    assert sample is not None
    expected, _ = jax.jit(sample, static_argnums=(3, 4))(params, keys, told, 5, ())
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
        frozen.check_classifier(config, judge, "the judge")


FREE = [f"classifier-free, w = {s - 1:g}" for s in guidance_tradeoff.STRENGTHS]
UNCONDITIONAL = [f"classifier on the unconditional model, s = {s:g}" for s in guidance_tradeoff.ON_UNCONDITIONAL]
CONDITIONAL = [
    FREE[0],
    *(f"classifier on the conditional model, s = {s - 1:g}" for s in guidance_tradeoff.STRENGTHS[1:]),
]


def column(names: list[str], metric: str) -> list[dict[str, Any]]:
    rows = committed()
    return [rows[name][metric] for name in names]


def falls(values: list[dict[str, Any]]) -> bool:
    return all(not clearly(b, a) for a, b in itertools.pairwise(values)) and clearly(values[0], values[-1])


def test_committed_rows_are_all_of_the_experiment_and_of_as_many_seeds() -> None:
    results = json.loads((RESULTS / "guidance_tradeoff.json").read_text("utf-8"))
    assert [e["name"] for e in results["rows"]] == [row.name for row in guidance_tradeoff.rows("mini")]
    assert len({tuple(e["runs"]) for e in results["rows"]}) == 1 and results["scale"] == "mini"


@pytest.mark.parametrize("names", [FREE, CONDITIONAL, UNCONDITIONAL[1:]], ids=lambda names: names[-1])
def test_guidance_trades_recall_for_precision(names: list[str]) -> None:
    assert falls(column(names, "recall"))
    precision = column(names, "precision")
    assert any(clearly(stronger, precision[0]) for stronger in precision[1:])


def test_a_classifier_finds_the_class_without_a_conditional_model_at_more_than_its_true_scale() -> None:
    """s = 1 would be the conditional model if the classifier were exact; s = 10 is what finds the class (ADM, §4.3)."""
    accuracy = column(UNCONDITIONAL, "accuracy")
    assert abs(accuracy[0]["mean"] - 0.1) < 4 * accuracy[0]["standard_error"]
    assert clearly(column(FREE[:1], "accuracy")[0], accuracy[1]) and clearly(accuracy[-1], accuracy[1])
    assert min(column([name], "accuracy")[0]["mean"] for name in FREE[1:]) > 0.99
    assert committed()["test images"]["accuracy_of_all"]["mean"] > 0.99


def test_too_much_classifier_free_guidance_leaves_the_data() -> None:
    """The best Fréchet distance is at a small w (Ho & Salimans, table 1), and more than that is clearly worse."""
    far = column(FREE, "frechet")
    assert min(far, key=lambda m: m["mean"]) in far[:3] and falls(far[:1:-1])


def test_a_score_shift_wants_the_clip_after_it_and_the_kinds_of_variance_hardly_differ() -> None:
    rows = committed()
    at = lambda by, s: rows[f"{by} on the unconditional model, s = {s:g}"]
    for s in guidance_tradeoff.SCALAR:
        own = at("classifier", s)
        assert clearly(at("score shift", s)["frechet"], at("score shift, then clipped,", s)["frechet"])
        for by in ("mean shift by β", "score shift, then clipped,"):
            for metric in ("accuracy", "recall", "frechet"):
                assert not clearly(at(by, s)[metric], own[metric], 3) and not clearly(own[metric], at(by, s)[metric], 3)


def test_dynamic_thresholds_leave_fewer_pixels_at_the_ends() -> None:
    rows = committed()
    for s in guidance_tradeoff.STRENGTHS:
        for end in ("black", "white"):
            assert clearly(
                rows[f"classifier-free, w = {s - 1:g}"][end], rows[f"dynamic threshold, w = {s - 1:g}"][end], 5
            )


def test_more_labels_dropped_make_a_worse_conditional_half_and_a_better_unconditional_one() -> None:
    found = [f"bits/dim, p_uncond = {p:g}" for p in guidance_tradeoff.P_UNCOND]
    saves = column(found, "label_saves")
    assert falls(saves) and clearly(saves[-1], {"mean": 0.0, "standard_error": 0.0})
    assert column(found, "bits_unconditional")[0]["mean"] > column(found, "bits_unconditional")[-1]["mean"]
    for s in guidance_tradeoff.BY_P_UNCOND:
        few, many = (committed()[f"p_uncond = {p:g}, w = {s - 1:g}"]["recall"] for p in (0.05, 0.5))
        assert clearly(many, few)  # ∅ that is trained less is worse, and w pushes away from it


def test_the_implicit_classifier_is_nearly_as_good_as_the_trained_one() -> None:
    names = [f"classifiers at t = {t:g}" for t in guidance_tradeoff.T]
    for of in ("accuracy_noisy_classifier", "accuracy_implicit"):
        assert falls(column(names, of)[1:])
    assert all(abs(m["mean"]) < 0.1 for m in column(names, "implicit_minus_noisy"))
    assert column(names, "accuracy_noisy_classifier")[0]["mean"] > 0.97


def test_a_guided_step_costs_less_than_three_unguided_ones() -> None:
    cost = committed()["cost of a step"]
    assert 1.2 < cost["classifier_free_ratio"]["mean"] < 3 and 1.2 < cost["classifier_ratio"]["mean"] < 3
