"""Quality and bits/dim against the number of network evaluations: ancestral, DDIM, flow, predictor–corrector, students.

One model of each kind is trained, and every sampler draws images with several numbers of network evaluations per image
(Heun and predictor–corrector steps take two). Quality is the Fréchet distance to the training images in the features
of a small classifier that is trained here on the same data; it is not FID. The likelihood of ancestral sampling in T
steps is the bound of T steps; that of the flow takes the evaluations of its solver at a tolerance.

    python -m experiments.ddpm.sampler_tradeoff --mini --seeds=1
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from experiments import common, models
from experiments.common import Measured, Outcome, Row, mean_of
from experiments.ddpm import iddpm_nll
from experiments.ddpm import sampler_tradeoff_models as made
from experiments.ddpm.sampler_tradeoff_plot import plot
from vdm_jax import data
from vdm_jax.evaluation import features
from vdm_jax.evaluation.frechet import distance

TOLERANCES = (0.1, 0.01, 0.001, 0.0001)


class Kind(NamedTuple):
    """A kind of model: its config files and overrides by scale, and its samplers.

    Attributes:
      students: numbers of steps of the students of progressive distillation.
      teacher_steps: the number of steps of the teacher of a one-step student.
      adaptive: tolerances of the adaptive solver.
      flow: whether the likelihood of the flow is measured.
    """

    files: dict[str, str]
    overrides: dict[str, dict[str, Any]]
    samplers: tuple[str, ...]
    students: tuple[int, ...] = ()
    teacher_steps: int = 0
    adaptive: tuple[float, ...] = ()
    flow: bool = False


class Study(NamedTuple):
    """A comparison: kinds of models, numbers of evaluations, numbers of samples and a feature classifier.

    data: the config fields of the data that all models share.
    """

    kinds: dict[str, Kind]
    evaluations: dict[str, tuple[int, ...]]
    samples: dict[str, int]
    classifier: features.Settings
    data: Mapping[str, Any] = {}


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
        ("ancestral", "ddim", "euler", "heun", "predictor_corrector"),
        flow=True,
    ),
    "DDPM": Kind(
        iddpm_nll.FILES,
        dict.fromkeys(common.SCALES, iddpm_nll.overrides("linear", "simple")),
        ("ancestral", "ddim"),
        students=(8, 4, 2),
        teacher_steps=16,
    ),
    "score SDE": Kind(
        {"mini": "experiments/sde/mini_sde.py", "paper": "configs/score_sde_cifar10.py"},
        {scale: {"evaluation.estimator": "vlb", "evaluation.passes": 8} for scale in common.SCALES},
        ("euler_maruyama", "ancestral", "predictor_corrector", "heun"),
        adaptive=TOLERANCES,
    ),
}
# Progressive distillation (Salimans & Ho 2022): students start from their teacher, the first from the model.
STUDENT: dict[str, dict[str, Any]] = {
    "mini": {"training.num_steps": 300, "training.checkpoint_every": 300, "optimizer.learning_rate": 3e-4},
    "paper": {"training.num_steps": 50_000},
}
# One-step regression (Luhman & Luhman 2021): one student step replaces sixteen teacher steps.
REGRESSED: dict[str, dict[str, Any]] = {
    "mini": {**STUDENT["mini"], "training.num_steps": 600, "training.checkpoint_every": 600},
    "paper": STUDENT["paper"],
}
SAMPLES = {"mini": 500, "paper": 50_000}
EVALUATIONS = {"mini": (2, 4, 8, 16, 32, 64), "paper": (4, 8, 16, 32, 64, 128, 256, 1000)}
CLASSIFIER = features.Settings()
DIGITS = Study(KINDS, EVALUATIONS, SAMPLES, CLASSIFIER)


def rows(scale: str, study: Study = DIGITS) -> list[Row]:
    classifier = study.classifier._asdict()
    first = next(iter(study.kinds.values()))
    test = {"kind": "test", "file": first.files[scale], "classifier": classifier}
    found = [Row("test images", {**test, "overrides": study.data} if study.data else test)]
    for name, kind in study.kinds.items():
        model = models.identity(kind.files[scale], kind.overrides[scale])
        drawn = {"kind": "samples", **model, "samples": study.samples[scale], "classifier": classifier}
        found += [
            Row(f"{name}, {sampler}, {n} evaluations", {**drawn, "sampler": sampler, "evaluations": n})
            for sampler in kind.samplers
            for n in study.evaluations[scale]
            if made.fields_of(model["fields"].get("method", "vdm"), sampler, n)["num_steps"] > 0
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
        if kind.teacher_steps:
            student = {"teacher_steps": kind.teacher_steps, "student": REGRESSED[scale]}
            found.append(
                Row(f"{name}, regressed, 1 evaluation", {**drawn, "sampler": "regressed", "evaluations": 1, **student})
            )
        found += [
            Row(f"{name}, adaptive, tolerance {t:g}", {**drawn, "sampler": "adaptive", "tolerance": t})
            for t in kind.adaptive
        ]
        found.append(Row(f"{name}, bound of all steps", {"kind": "bound", **model}))
        if kind.flow:
            found += [
                Row(f"{name}, flow, tolerance {t:g}", {"kind": "flow", **model, "tolerance": t}) for t in TOLERANCES
            ]
    return found


class Reference(NamedTuple):
    """A classifier and the features of its training and test images."""

    classifier: features.Classifier
    train: np.ndarray
    test: np.ndarray


def reference(config: ConfigDict, settings: Mapping[str, Any], workdir: epath.Path) -> Reference:
    """Return the reference for the data of a config."""
    section = config.data
    return _reference(section.name, section.path, tuple(section.shape), features.Settings(**settings), workdir)


@lru_cache(maxsize=1)
def _reference(
    name: str, path: str, shape: tuple[int, ...], settings: features.Settings, workdir: epath.Path
) -> Reference:
    found = features.classifier(workdir, name, path=path, shape=shape, settings=settings)
    parts = (data.load(name, split, path=path, shape=shape) for split in ("train", "test"))
    return Reference(found, *(features.extract(found, features.images_and_labels(part)[0]) for part in parts))


def quality(found: np.ndarray, reference: np.ndarray) -> dict[str, Measured]:
    """Return the distance with and without its O(1/N) bias."""
    d = distance(found, reference)
    measured = partial(Measured, standard_error=d.standard_error, n=len(found))
    return {"frechet": measured(d.plain), "frechet_unbiased": measured(d.corrected)}


def measure(row: Row, seed: int, workdir: epath.Path, path: str = "") -> Outcome:
    """Measure a row; path: the path of the data, which is not part of the row."""
    placed = {"data.path": path} if path else {}
    config = {**row.config, "overrides": {**row.config.get("overrides", {}), **placed}}
    if config["kind"] == "test":
        of = models.load_config(config["file"], config["overrides"])
        found, train, test = reference(of, config["classifier"], workdir)
        accuracy = Measured(found.about["accuracy"], n=found.about["test_images"])
        return Outcome({**quality(test, train), "accuracy": accuracy}, {"title": found.title})
    model = made.model_of(config["file"], tuple(config["overrides"].items()), seed, workdir)
    if config["kind"] == "flow":
        values = models.likelihood(model, seed=seed, estimator="ode", passes=1, tolerance=config["tolerance"])
        return Outcome({"bits_per_dim": mean_of(values["total"]), "evaluations": mean_of(values["evaluations"])})
    if config["kind"] == "bound":
        return Outcome({"bits_per_dim": mean_of(models.likelihood(model, seed=seed)["total"])})
    sampler, count = config["sampler"], config["samples"]
    if sampler == "distilled":
        model = made.student_of(config, config["evaluations"], seed, workdir)
    if sampler == "regressed":
        model = made.regressed(config, seed, workdir)
    found, train, _ = reference(model.config, config["classifier"], workdir)
    if sampler == "adaptive":
        drawn = made.solved(model, config["tolerance"], count, seed)
        assert drawn.evaluations is not None
        evaluations = mean_of(drawn.evaluations[None])
        return Outcome({**quality(features.extract(found, drawn.images), train), "evaluations": evaluations})
    images = made.prepared(model, sampler, config["evaluations"], count, seed)()
    measured = quality(features.extract(found, images), train)
    if sampler == "ancestral" and model.config.method != "sde":
        measured["bits_per_dim"] = mean_of(made.bound_of_steps(model, config["evaluations"], seed))
    return Outcome(measured)


NOTES = (
    "`frechet` is the Fréchet distance between samples and training images in the features of a small classifier of "
    "the same data, trained for this, whose test accuracy is in the row `test images`; it is not FID and compares with "
    "nothing outside this table. `frechet_unbiased` is without its bias of O(1/N); the row `test images` is what "
    "real images reach. Evaluations are of the network, for each image; steps of Heun and of predictor–corrector take "
    "two. `bits_per_dim` of ancestral rows is the bound of so many steps; the flow's counts what its solver took, "
    "gradients apart, and a coarse solver's number is no likelihood yet. All samplers start from the same noise, so "
    "that their differences are surer than their errors say. Students are of progressive distillation: each starts as "
    "its teacher and takes one DDIM step for two of its; the regressed one makes at once what many steps of its "
    "teacher make of the same noise. The noisy samplers of the score SDE (VP) end with the mean of their last step, "
    "which is counted: where steps take two, one evaluation is left over. Of `adaptive` rows `evaluations` is what the "
    "solver took on average. "
)
EXPERIMENT = common.Experiment(
    "sampler_tradeoff",
    "Quality and bits/dim against the number of network evaluations",
    NOTES + "VDM (for its bound), DDPM and score SDE (for L_simple) differ in size and in training: compare samplers "
    "of one model.",
    models.data_of,
    rows,
    measure,
    plot,
)

if __name__ == "__main__":
    common.main(EXPERIMENT)
