"""How evaluations are counted, and the facts that the committed results of `sampler_tradeoff` must show."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import models
from experiments.ddpm import sampler_tradeoff, sampler_tradeoff_models
from tests.results import clearly, measured
from vdm_jax.diffusion import prediction, samplers, schedules, sde_steps
from vdm_jax.diffusion.process import noise

committed = partial(measured, "sampler_tradeoff")


@pytest.mark.parametrize("sampler", sampler_tradeoff_models.PER_STEP)
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
        "euler_maruyama": sde_steps.euler_maruyama(predict),
        "predictor_corrector": sde_steps.predictor_corrector(
            samplers.ancestral(predict), sde_steps.langevin(predict, sde_steps.by_norms(0.16), 1)
        ),
    }
    schedule = schedules.linear(-5.0, 5.0)
    steps = samplers.transitions(schedule, samplers.uniform_grid(2), lambda gamma: noise(gamma, gamma))
    first = jax.tree.map(lambda a: a[0], steps)
    rules[sampler](jax.random.split(jax.random.key(0), 3), jnp.ones((3, 2)), first)
    assert len(calls) == sampler_tradeoff_models.PER_STEP[sampler]


def test_every_sampler_is_measured_at_the_same_numbers_of_evaluations():
    names = {row.name for row in sampler_tradeoff.rows("mini")}
    for name, kind in sampler_tradeoff.KINDS.items():
        for sampler in kind.samplers:
            for n in sampler_tradeoff.EVALUATIONS["mini"]:
                too_few = (name, sampler, n) == ("score SDE", "predictor_corrector", 2)  # with the last mean it is 3
                assert (f"{name}, {sampler}, {n} evaluations" in names) != too_few
    assert {sampler for kind in sampler_tradeoff.KINDS.values() for sampler in kind.samplers} == set(
        sampler_tradeoff_models.PER_STEP
    )
    assert "DDPM, regressed, 1 evaluation" in names and "score SDE, adaptive, tolerance 0.001" in names


@pytest.mark.parametrize(
    ("method", "sampler", "evaluations", "steps", "called"),
    [
        ("vdm", "predictor_corrector", 8, 4, "ancestral"),
        ("vdm", "heun", 8, 4, "heun"),
        ("ddpm", "distilled", 4, 4, "ddim"),
        ("ddpm", "regressed", 1, 1, "ddim"),
        ("sde", "euler_maruyama", 8, 7, "euler_maruyama"),
        ("sde", "predictor_corrector", 8, 3, "predictor_corrector"),
        ("sde", "heun", 8, 4, "heun"),
    ],
)
def test_the_last_mean_of_an_sde_s_noisy_steps_is_an_evaluation(method, sampler, evaluations, steps, called):
    fields = sampler_tradeoff_models.fields_of(method, sampler, evaluations)
    assert (fields["num_steps"], fields["sampler"]) == (steps, called)
    spent = steps * sampler_tradeoff_models.PER_STEP.get(sampler, 1) + (method == "sde" and fields["denoise"])
    assert evaluations - 1 <= spent <= evaluations
    assert fields.get("respacing", "") == (f"even{steps}" if called == "ddim" and method == "ddpm" else "")


def test_rows_are_configs_that_can_be_trained_and_sampled():
    """The student of one step, and the solver."""
    for row in sampler_tradeoff.rows("mini"):
        config = row.config
        if config.get("sampler") == "regressed":
            own = {"training.distill": "one_step", "training.teacher_steps": config["teacher_steps"]}
            own |= {"sampling.sampler": "ddim", "sampling.respacing": "even1", "sampling.num_steps": 1}
            student = models.load_config(config["file"], {**config["overrides"], **config["student"], **own})
            assert student.training.num_steps == 600
        if config.get("sampler") == "adaptive":
            fields = {"sampling.sampler": "adaptive", "sampling.tolerance": config["tolerance"]}
            made = models.load_config(config["file"], {**config["overrides"], **fields})
            assert made.method == "sde" and made.schedule.kind == "vp_sde"


@pytest.mark.parametrize("kind", ["VDM", "DDPM"])
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
    measured = {name: kind for name, kind in sampler_tradeoff.KINDS.items() if f"{name}, bound of all steps" in rows}
    assert {"VDM", "DDPM"} <= set(measured)
    for name, kind in measured.items():
        for sampler in kind.samplers:
            found = [rows.get(f"{name}, {sampler}, {n} evaluations") for n in sampler_tradeoff.EVALUATIONS["mini"]]
            few, *_, many = (row["frechet_unbiased"] for row in found if row)
            assert few["mean"] - many["mean"] > 2 * np.hypot(few["standard_error"], many["standard_error"])


def test_fewer_evaluations_want_ddim_and_students_want_fewer_still():
    rows = committed()
    at = lambda sampler, n: rows[f"DDPM, {sampler}, {n} evaluations"]["frechet_unbiased"]
    assert clearly(at("ancestral", 4), at("ddim", 4)) and clearly(at("ddim", 4), at("distilled", 4))
    assert clearly(at("ddim", 2), at("distilled", 2))


def test_the_better_likelihood_is_not_the_better_sample():
    """The VDM trained for its bound against the DDPM trained for L_simple."""
    rows = committed()
    bits = {kind: rows[f"{kind}, bound of all steps"]["bits_per_dim"]["mean"] for kind in ("VDM", "DDPM")}
    far = {kind: rows[f"{kind}, ancestral, 64 evaluations"]["frechet_unbiased"]["mean"] for kind in ("VDM", "DDPM")}
    assert bits["VDM"] < bits["DDPM"] - 0.5 and far["VDM"] > far["DDPM"] + 2
