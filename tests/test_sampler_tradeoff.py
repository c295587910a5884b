"""How evaluations are counted, and the facts that the committed results of `sampler_tradeoff` must show."""

import itertools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import common, sampler_tradeoff
from vdm_jax.diffusion import prediction, samplers, schedules, sde_steps
from vdm_jax.diffusion.process import noise

RESULTS = pathlib.Path(common.__file__).parent / "results" / "sampler_tradeoff.json"


def committed():
    """{row: {metric: {mean, standard_error, …}}}."""
    return {e["name"]: e["measured"] for e in json.loads(RESULTS.read_text("utf-8"))["rows"]}


@pytest.mark.parametrize("sampler", sampler_tradeoff.PER_STEP)
def test_a_step_costs_what_is_counted(sampler):
    calls = []

    def predict(z, level):
        calls.append(level)
        return prediction.split(z, z, level)

    rules = {
        "ancestral": samplers.ancestral(predict),
        "ddim": samplers.ddim(predict),
        "euler": samplers.euler(predict),
        "heun": samplers.heun(predict),
        "predictor_corrector": sde_steps.predictor_corrector(
            samplers.ancestral(predict), sde_steps.langevin(predict, sde_steps.by_norms(0.16), 1)
        ),
    }
    schedule = schedules.linear(-5.0, 5.0)
    steps = samplers.transitions(schedule, samplers.uniform_grid(2), lambda gamma: noise(gamma, gamma))
    first = jax.tree.map(lambda a: a[0], steps)
    rules[sampler](jax.random.split(jax.random.key(0), 3), jnp.ones((3, 2)), first)
    assert len(calls) == sampler_tradeoff.PER_STEP[sampler]


def test_every_sampler_is_measured_at_the_same_numbers_of_evaluations():
    names = {row.name for row in sampler_tradeoff.rows("mini")}
    for sampler in sampler_tradeoff.PER_STEP:
        assert {f"VDM, {sampler}, {n} evaluations" for n in sampler_tradeoff.EVALUATIONS["mini"]} <= names


@pytest.mark.parametrize("kind", sampler_tradeoff.KINDS)
def test_the_bound_falls_with_the_steps(kind):
    rows = committed()
    bits = [rows[f"{kind}, ancestral, {n} evaluations"]["bits_per_dim"] for n in sampler_tradeoff.EVALUATIONS["mini"]]
    assert all(a["mean"] > b["mean"] for a, b in itertools.pairwise(bits))
    assert bits[-1]["mean"] > rows[f"{kind}, bound of all steps"]["bits_per_dim"]["mean"]


def test_the_likelihood_of_the_flow_settles():
    rows = committed()
    flow = [rows[f"VDM, flow, tolerance {t:g}"] for t in sampler_tradeoff.TOLERANCES]
    assert all(a["evaluations"]["mean"] < b["evaluations"]["mean"] for a, b in itertools.pairwise(flow))
    assert abs(flow[-1]["bits_per_dim"]["mean"] - flow[-2]["bits_per_dim"]["mean"]) < 0.01


def test_samples_come_nearer_with_more_evaluations():
    rows = committed()
    assert rows["test images"]["accuracy"]["mean"] > 0.97
    first, last = sampler_tradeoff.EVALUATIONS["mini"][0], sampler_tradeoff.EVALUATIONS["mini"][-1]
    for name, kind in sampler_tradeoff.KINDS.items():
        for sampler in kind.samplers:
            few, many = (rows[f"{name}, {sampler}, {n} evaluations"]["frechet_unbiased"] for n in (first, last))
            assert few["mean"] - many["mean"] > 2 * np.hypot(few["standard_error"], many["standard_error"])


def test_fewer_evaluations_want_ddim_and_students_want_fewer_still():
    rows = committed()
    at = lambda sampler, n: rows[f"DDPM, {sampler}, {n} evaluations"]["frechet_unbiased"]
    clearly = lambda worse, better: (
        worse["mean"] - better["mean"] > 2 * np.hypot(worse["standard_error"], better["standard_error"])
    )
    assert clearly(at("ancestral", 4), at("ddim", 4)) and clearly(at("ddim", 4), at("distilled", 4))
    assert clearly(at("ddim", 2), at("distilled", 2))


def test_the_better_likelihood_is_not_the_better_sample():
    """The VDM trained for its bound against the DDPM trained for L_simple."""
    rows = committed()
    bits = {kind: rows[f"{kind}, bound of all steps"]["bits_per_dim"]["mean"] for kind in ("VDM", "DDPM")}
    far = {kind: rows[f"{kind}, ancestral, 64 evaluations"]["frechet_unbiased"]["mean"] for kind in ("VDM", "DDPM")}
    assert bits["VDM"] < bits["DDPM"] - 0.5 and far["VDM"] > far["DDPM"] + 2
