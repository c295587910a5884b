"""The samplers of `sampler_tradeoff` at a given number of network evaluations, including students."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import jax
import numpy as np
from etils import epath

from experiments import models
from vdm_jax import methods
from vdm_jax.core.method import LIKELIHOOD, Method, PerExample
from vdm_jax.diffusion import decoders, samplers, sde_steps, tables
from vdm_jax.evaluation import report
from vdm_jax.keys import fold
from vdm_jax.methods import ddpm

PER_STEP = {"ancestral": 1, "ddim": 1, "euler": 1, "heun": 2, "predictor_corrector": 2, "euler_maruyama": 1}
SNR = 0.16  # r of the Langevin steps (Song et al. 2021, for CIFAR-10)
START, PATH = range(2)


@lru_cache(maxsize=1)
def model_of(file: str, overrides: tuple[tuple[str, Any], ...], seed: int, workdir: epath.Path) -> models.Model:
    return models.trained(models.load_config(file, {**dict(overrides), "training.seed": seed}), workdir)


def student_of(config: Mapping[str, Any], steps: int, seed: int, workdir: epath.Path) -> models.Model:
    """Train the student with `steps` steps from one with twice as many or, if it is the first, from the model."""
    if steps > max(config["students"]):
        return model_of(config["file"], tuple(config["overrides"].items()), seed, workdir)
    own = {"training.distill": "progressive", "training.student_steps": steps, "training.seed": seed}
    own |= {"sampling.sampler": "ddim", "sampling.respacing": f"even{steps}", "sampling.num_steps": steps}
    student = models.load_config(config["file"], {**config["overrides"], **config["student"], **own})
    return models.trained(student, workdir, lambda: student_of(config, 2 * steps, seed, workdir))


def regressed(config: Mapping[str, Any], seed: int, workdir: epath.Path) -> models.Model:
    """Train the one-step student, which maps z_T to the result of its teacher's DDIM in `teacher_steps` steps."""
    own = {"training.distill": "one_step", "training.teacher_steps": config["teacher_steps"], "training.seed": seed}
    own |= {"sampling.sampler": "ddim", "sampling.respacing": "even1", "sampling.num_steps": 1}
    student = models.load_config(config["file"], {**config["overrides"], **config["student"], **own})
    teacher = lambda: model_of(config["file"], tuple(config["overrides"].items()), seed, workdir)
    return models.trained(student, workdir, teacher)


def corrected(method: Method, vocabulary: int | None, shape: tuple[int, ...]) -> Method:
    """Return the method with one Langevin step before every ancestral step of its sampler."""

    def sample(params: Any, keys: jax.Array, cond: jax.Array, num_steps: int, keep: tuple[int, ...] = ()) -> Any:
        if method.ode is None:
            raise ValueError("predictor–corrector sampling requires a method in continuous time")
        flow, schedule = method.ode(params), method.schedule(params)
        predict = lambda z, level: flow.predict(z, level, cond)
        steps = samplers.transitions(schedule, samplers.uniform_grid(num_steps), flow.level_of)
        langevin = sde_steps.langevin(predict, sde_steps.by_norms(SNR), 1)
        step = sde_steps.predictor_corrector(samplers.ancestral(predict), langevin)
        z = samplers.prior_sample(fold(keys, START), shape, flow.gamma_1, flow.process)
        z, path = samplers.run(step, z, fold(keys, PATH), steps, keep)
        return decoders.decode(z, flow.level_of(flow.gamma_0), vocabulary), path

    return method._replace(sample=sample)


def fields_of(method: str, sampler: str, evaluations: int) -> dict[str, Any]:
    """Return fields of `sampling` for `evaluations` network evaluations per image, or one fewer.

    The stochastic samplers of an SDE end with the mean of the last step, which takes one more evaluation; its flow
    ends at t_min.
    """
    noisy = method == "sde" and sampler != "heun"
    steps = (evaluations - noisy) // PER_STEP.get(sampler, 1)
    students = sampler in ("distilled", "regressed")
    names = {"distilled": "ddim", "regressed": "ddim"} | (
        {} if method == "sde" else {"predictor_corrector": "ancestral"}
    )
    return {
        "num_steps": steps,
        "sampler": names.get(sampler, sampler),
        **({"denoise": noisy} if method == "sde" else {}),
        **({"respacing": f"even{steps}" if students else ""} if method == "ddpm" else {}),
    }


def prepared(model: models.Model, sampler: str, evaluations: int, count: int, seed: int) -> Callable[[], np.ndarray]:
    """Return a function that draws [count, …] samples by `evaluations` each; it is compiled by the first call."""
    fields = fields_of(model.config.method, sampler, evaluations) | {"seed": seed, "batch_size": min(count, 500)}
    config = models.with_fields(model.config, {f"sampling.{name}": value for name, value in fields.items()})
    method = methods.build(config)
    if sampler == "predictor_corrector" and config.method != "sde":
        method = corrected(method, config.data.vocabulary or None, tuple(config.data.shape))
    return lambda: np.asarray(report.sample(config, method, model.params, model.mesh, count)[0])


def solved(model: models.Model, tolerance: float, count: int, seed: int) -> report.Drawn:
    """Draw samples by the adaptive solver, with their numbers of evaluations."""
    fields = {"sampler": "adaptive", "tolerance": tolerance, "denoise": False, "seed": seed}
    fields["batch_size"] = min(count, 500)
    config = models.with_fields(model.config, {f"sampling.{name}": value for name, value in fields.items()})
    return report.sample(config, methods.build(config), model.params, model.mesh, count)


def bound_of_steps(model: models.Model, count: int, seed: int) -> np.ndarray:
    """Return the bound of ancestral sampling in `count` steps on the test images, bits/dim [passes, N]."""
    if model.config.method == "vdm":
        return models.likelihood(model, seed=seed, num_timesteps=count)["total"]
    config = models.with_fields(model.config, {"evaluation.seed": seed})
    made = ddpm.model(config)
    indices = tables.spaced(len(made.betas), str(count))
    merged, time_input = tables.merge(made.betas, indices), made.time_input[indices]
    fewer = dataclasses.replace(made, betas=merged, time_input=time_input)
    method = model.method._replace(evaluators=(PerExample(LIKELIHOOD, fewer.bits_per_dim, f"vlb_T={count}"),))
    return report.measure(config, method, model.params, model.mesh)[0]["total"]
