"""Quality and bits/dim against the number of network evaluations: ancestral, DDIM, flow, predictor–corrector.

One trained model of each kind, and of every sampler images from so many evaluations of its network for each image
(Heun's steps and predictor–corrector steps take two). Quality is the Fréchet distance to the training images in the
features of a small classifier of the same data, trained here; it is not FID. The likelihood that belongs to
ancestral sampling in T steps is the bound of T steps; the flow's costs what its solver takes at a tolerance.

    python -m experiments.sampler_tradeoff --mini --seeds=1
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from experiments import common, iddpm_nll, models
from experiments.common import Measured, Outcome, Row, mean_of
from experiments.sampler_tradeoff_plot import plot
from vdm_jax import data, methods
from vdm_jax.diffusion import decoders, samplers, sde_steps, tables
from vdm_jax.evaluation import features, report
from vdm_jax.evaluation.frechet import distance
from vdm_jax.methods import ddpm, networks
from vdm_jax.methods.base import Method, fold

PER_STEP = {"ancestral": 1, "ddim": 1, "euler": 1, "heun": 2, "predictor_corrector": 2}


class Kind(NamedTuple):
    """A kind of model: its config files and overrides by scale, the samplers that it has, and steps of its students."""

    files: dict[str, str]
    overrides: dict[str, dict[str, Any]]
    samplers: tuple[str, ...]
    students: tuple[int, ...] = ()


KINDS = {
    "VDM": Kind(
        models.FILES,
        {
            "mini": {
                "schedule.kind": "linear",
                "training.num_steps": 1000,
                "training.checkpoint_every": 1000,
                "evaluation.passes": 8,
            },
            "paper": {"schedule.kind": "linear", "evaluation.passes": 8},
        },
        tuple(PER_STEP),
    ),
    "DDPM": Kind(
        iddpm_nll.FILES,
        dict.fromkeys(common.SCALES, iddpm_nll.overrides("linear", "simple")),
        ("ancestral", "ddim"),
        students=(8, 4, 2),
    ),
}
# Progressive distillation (Salimans & Ho 2022): a student starts as its teacher, the first one's is the model itself.
STUDENT: dict[str, dict[str, Any]] = {
    "mini": {"training.num_steps": 300, "training.checkpoint_every": 300, "optimizer.learning_rate": 3e-4},
    "paper": {"training.num_steps": 50_000},
}
SAMPLES = {"mini": 500, "paper": 50_000}
EVALUATIONS = {"mini": (2, 4, 8, 16, 32, 64), "paper": (4, 8, 16, 32, 64, 128, 256, 1000)}
TOLERANCES = (0.1, 0.01, 0.001, 0.0001)
SNR = 0.16  # r of the Langevin steps (Song et al. 2021, for CIFAR-10)
CLASSIFIER = features.Settings()
START, PATH = range(2)


def rows(scale: str) -> list[Row]:
    classifier = CLASSIFIER._asdict()
    found = [Row("test images", {"kind": "test", "file": KINDS["VDM"].files[scale], "classifier": classifier})]
    for name, kind in KINDS.items():
        model = models.identity(kind.files[scale], kind.overrides[scale])
        drawn = {"kind": "samples", **model, "samples": SAMPLES[scale], "classifier": classifier}
        found += [
            Row(f"{name}, {sampler}, {n} evaluations", {**drawn, "sampler": sampler, "evaluations": n})
            for sampler in kind.samplers
            for n in EVALUATIONS[scale]
            if n >= PER_STEP[sampler]
        ]
        found += [
            Row(
                f"{name}, distilled, {n} evaluations",
                {
                    **drawn,
                    "sampler": "distilled",
                    "evaluations": n,
                    "students": kind.students,
                    "student": STUDENT[scale],
                },
            )
            for n in kind.students
        ]
        found.append(Row(f"{name}, bound of all steps", {"kind": "bound", **model}))
        if "euler" in kind.samplers:
            found += [
                Row(f"{name}, flow, tolerance {t:g}", {"kind": "flow", **model, "tolerance": t}) for t in TOLERANCES
            ]
    return found


@lru_cache(maxsize=1)
def reference(name: str, path: str, workdir: epath.Path) -> tuple[features.Classifier, np.ndarray, np.ndarray]:
    """The classifier of a data set, and the features of its training and test images."""
    found = features.classifier(workdir, name, path=path, settings=CLASSIFIER)
    images = (features.images_and_labels(data.load(name, split, path=path))[0] for split in ("train", "test"))
    train, test = (features.extract(found, part) for part in images)
    return found, train, test


@lru_cache(maxsize=1)
def model_of(file: str, overrides: tuple[tuple[str, Any], ...], seed: int, workdir: epath.Path) -> models.Model:
    return models.trained(models.load_config(file, {**dict(overrides), "training.seed": seed}), workdir)


def student_of(config: Mapping[str, Any], steps: int, seed: int, workdir: epath.Path) -> models.Model:
    """The student of so many steps, from one of twice as many or, if it is the first, from the model itself."""
    if steps > max(config["students"]):
        return model_of(config["file"], tuple(config["overrides"].items()), seed, workdir)
    own = {"training.distill": "progressive", "training.student_steps": steps, "training.seed": seed}
    own |= {"sampling.sampler": "ddim", "sampling.respacing": f"even{steps}", "sampling.num_steps": steps}
    student = models.load_config(config["file"], {**config["overrides"], **config["student"], **own})
    return models.trained(student, workdir, lambda: student_of(config, 2 * steps, seed, workdir))


def corrected(method: Method, vocabulary: int | None, shape: tuple[int, ...]) -> Method:
    """The same method, sampled with one Langevin step before every ancestral step."""

    def sample(params: Any, keys: jax.Array, cond: jax.Array, num_steps: int, keep: tuple[int, ...] = ()) -> Any:
        if method.ode is None:
            raise ValueError("predictor–corrector sampling wants a method in continuous time")
        flow, schedule = method.ode(params), method.schedule(params)
        predict = lambda z, level: flow.predict(z, level, cond)
        steps = samplers.transitions(schedule, samplers.uniform_grid(num_steps), flow.level_of)
        langevin = sde_steps.langevin(predict, sde_steps.by_norms(SNR), 1)
        step = sde_steps.predictor_corrector(samplers.ancestral(predict), langevin)
        z = samplers.prior_sample(fold(keys, START), shape, flow.gamma_1, flow.process)
        z, path = samplers.run(step, z, fold(keys, PATH), steps, keep)
        return decoders.decode(z, flow.level_of(flow.gamma_0), vocabulary), path

    return method._replace(sample=sample)


def prepared(model: models.Model, sampler: str, evaluations: int, count: int, seed: int) -> Callable[[], np.ndarray]:
    """What draws [count, …] samples by so many evaluations of the network for each; compiled by its first call."""
    steps = evaluations // PER_STEP.get(sampler, 1)
    with_corrector = sampler == "predictor_corrector"
    fields = {
        "num_steps": steps,
        "seed": seed,
        "batch_size": min(count, 500),
        "sampler": {"predictor_corrector": "ancestral", "distilled": "ddim"}.get(sampler, sampler),
        "respacing": f"even{steps}" if sampler == "distilled" else "",
    }
    config = models.with_fields(model.config, {f"sampling.{name}": value for name, value in fields.items()})
    method = methods.build(config)
    if with_corrector:
        method = corrected(method, config.data.vocabulary or None, tuple(config.data.shape))
    return lambda: np.asarray(report.sample(config, method, model.params, model.mesh, count)[0])


def bound_of_steps(model: models.Model, count: int, seed: int) -> np.ndarray:
    """−log₂ p/D of the test images by the bound of ancestral sampling in `count` steps, [passes, N]."""
    if model.config.method == "vdm":
        return models.likelihood(model, seed=seed, num_timesteps=count)["total"]
    config = models.with_fields(model.config, {"evaluation.seed": seed})
    betas = ddpm.betas_of(config)
    indices = tables.spaced(len(betas), str(count))
    merged, told = tables.merge(betas, indices), networks.told(config, len(betas))[indices]
    fewer = ddpm.DDPM(config, networks.network(config), merged, told, tables.from_betas(merged, told))
    method = model.method._replace(bits_per_dim=fewer.bits_per_dim)
    return report.measure(config, method, model.params, model.mesh)[0]["total"]


def quality(found: np.ndarray, reference: np.ndarray) -> dict[str, Measured]:
    """The distance as it is and without its bias of O(1/N)."""
    d = distance(found, reference)
    measured = partial(Measured, standard_error=d.standard_error, n=len(found))
    return {"frechet": measured(d.plain), "frechet_unbiased": measured(d.corrected)}


def measure(row: Row, seed: int, workdir: epath.Path) -> Outcome:
    config = row.config
    if config["kind"] == "test":
        section = models.load_config(config["file"], {}).data
        found, train, test = reference(section.name, section.path, workdir)
        accuracy = Measured(found.about["accuracy"], n=found.about["test_images"])
        return Outcome({**quality(test, train), "accuracy": accuracy}, {"title": found.title})
    model = model_of(config["file"], tuple(config["overrides"].items()), seed, workdir)
    if config["kind"] == "flow":
        values = models.likelihood(model, seed=seed, estimator="ode", passes=1, tolerance=config["tolerance"])
        return Outcome({"bits_per_dim": mean_of(values["total"]), "evaluations": mean_of(values["evaluations"])})
    if config["kind"] == "bound":
        return Outcome({"bits_per_dim": mean_of(models.likelihood(model, seed=seed)["total"])})
    sampler, evaluations = config["sampler"], config["evaluations"]
    if sampler == "distilled":
        model = student_of(config, evaluations, seed, workdir)
    found, train, _ = reference(model.config.data.name, model.config.data.path, workdir)
    images = prepared(model, sampler, evaluations, config["samples"], seed)()
    measured = quality(features.extract(found, images), train)
    if sampler == "ancestral":
        measured["bits_per_dim"] = mean_of(bound_of_steps(model, evaluations, seed))
    return Outcome(measured)


EXPERIMENT = common.Experiment(
    "sampler_tradeoff",
    "Quality and bits/dim against the number of network evaluations",
    "`frechet` is the Fréchet distance between samples and training images in the features of a small classifier of "
    "the same data, trained for this, whose test accuracy is in the row `test images`; it is not FID and compares with "
    "nothing outside this table. `frechet_unbiased` is without its bias of O(1/N); the row `test images` is what "
    "real images reach. Evaluations are of the network, for each image; steps of Heun and of predictor–corrector take "
    "two. `bits_per_dim` of ancestral rows is the bound of so many steps; the flow's counts what its solver took, "
    "gradients apart, and a coarse solver's number is no likelihood yet. All samplers start from the same noise, so "
    "that their differences are surer than their errors say. Students are of progressive distillation: each starts as "
    "its teacher and takes one DDIM step for two of its. VDM (for its bound) and DDPM (for L_simple) differ in size "
    "and in training: compare samplers of one model.",
    models.data_of,
    rows,
    measure,
    plot,
)

if __name__ == "__main__":
    common.main(EXPERIMENT)
