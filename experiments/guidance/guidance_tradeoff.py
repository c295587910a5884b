"""Benefits and costs of guidance: class accuracy, diversity, saturation, time (Dhariwal & Nichol 2021, §4.3 and
figure 4; Ho & Salimans 2022, tables 1 and 2).

* strength against class accuracy, precision, recall and Fréchet distance: a noisy classifier on an unconditional and on
  a conditional model, and classifier-free guidance, by w and by p_uncond;
* a classifier's gradient times Σ of every pixel or one β in the mean, and in the score, under the same ancestral steps;
* pixels at the ends of their range, with the prediction clipped and with dynamic thresholding;
* the classifier that is implicit in the conditional model against the noisy one, and bits/dim given the label and ∅;
* the time of a guided step over that of an unguided one.

  python -m experiments.guidance.guidance_tradeoff --mini --seeds=3
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import numpy as np
from etils import epath

from experiments import common, models
from experiments.benchmarks.programs import in_turn, median
from experiments.common import Measured, Outcome, Row, mean_of
from experiments.guidance.guidance_classifiers import bits_per_dim, implicit_logits, noisy, trained_logits
from experiments.guidance.guidance_models import FILES, Draw, identity, images, trained
from experiments.guidance.guidance_tradeoff_plot import plot
from vdm_jax import data
from vdm_jax.evaluation import features
from vdm_jax.evaluation.frechet import distance
from vdm_jax.evaluation.precision_recall import precision_recall

# S, the multiple of ∇ log p(c|z) over the unconditional score: 1 + w, s, or 1 + s.
STRENGTHS = (1.0, 1.5, 2.0, 5.0, 10.0)
ON_UNCONDITIONAL = (0.0, 1.0, 2.0, 5.0, 10.0)
P_UNCOND = (0.05, 0.1, 0.2, 0.5)
BY_P_UNCOND = (2.0, 5.0)  # S at which p_uncond is compared
SCALAR = (2.0, 5.0, 10.0)  # S at which Σ is compared with scalars
OTHER_SHIFTS = {
    "mean shift by β": "β",
    "score shift": "score",
    "score shift, then clipped,": "score, then clipped",
}
PERCENTILE = 99.5  # as in Imagen; for 64 pixels it is between the two largest
T = (0.0, 0.25, 0.5, 0.75)  # times of the noisy images to classify; 0 is level 1 of the schedule
SIZES: dict[str, dict[str, Any]] = {
    "mini": {"samples": 250, "steps": 25, "classified": 200, "noises": 24, "timed": (50, 10, 7), "passes": 1},
    "paper": {"samples": 50_000, "steps": 250, "classified": 1000, "noises": 100, "timed": (50, 10, 7), "passes": 1},
}
CLASSIFIER = {"mini": features.Settings(), "paper": features.Settings(128, 256, 1000, 20_000, 256)}
SHOWN = 10  # samples per row in the figure


def rows(scale: str) -> list[Row]:
    size, file = SIZES[scale], FILES[scale]
    real = {"file": file, "classifier": CLASSIFIER[scale]._asdict()}
    found = [Row("test images", {"kind": "test", "samples": size["samples"], **real})]

    def samples(name: str, of: dict[str, Any], by: str, total: float, strength: float, percentile: float = 0.0) -> None:
        draw = {"by": by, "total": total, "strength": strength, "percentile": percentile}
        judged = {} if by == "classifier-free" else {"judge": identity(scale, "classifier")}
        counted = {"samples": size["samples"], "steps": size["steps"]}
        found.append(Row(name, {"kind": "samples", "model": of, **judged, **draw, **counted, **real}))

    free, unconditional = identity(scale, "classifier-free"), identity(scale, "unconditional")
    for s in STRENGTHS:
        samples(f"classifier-free, w = {s - 1:g}", free, "classifier-free", s, s - 1)
    for s in ON_UNCONDITIONAL:
        samples(f"classifier on the unconditional model, s = {s:g}", unconditional, "Σ", s, s)
    for s in STRENGTHS[1:]:
        samples(f"classifier on the conditional model, s = {s - 1:g}", free, "Σ", s, s - 1)
    for by, s in itertools.product(OTHER_SHIFTS, SCALAR):
        samples(f"{by} on the unconditional model, s = {s:g}", unconditional, OTHER_SHIFTS[by], s, s)
    for s in STRENGTHS:
        samples(f"dynamic threshold, w = {s - 1:g}", free, "classifier-free", s, s - 1, PERCENTILE)
    by_p = {p: identity(scale, "classifier-free", p) for p in P_UNCOND}
    for p, of in by_p.items():
        for s in BY_P_UNCOND if p != 0.1 else ():
            samples(f"p_uncond = {p:g}, w = {s - 1:g}", of, "classifier-free", s, s - 1)
    for name, of in [*((f"p_uncond = {p:g}", of) for p, of in by_p.items()), ("unconditional model", unconditional)]:
        found.append(Row(f"bits/dim, {name}", {"kind": "bits", "model": of, "passes": size["passes"]}))
    judge = identity(scale, "classifier")
    of = {"kind": "classify", "model": free, "judge": judge, "count": size["classified"], "noises": size["noises"]}
    found += [Row(f"classifiers at t = {t:g}", {**of, "t": t}) for t in T]
    found.append(Row("cost of a step", {"kind": "cost", "model": free, "judge": judge, "timed": size["timed"]}))
    return found


@lru_cache(maxsize=1)
def reference(file: str, settings: features.Settings, workdir: epath.Path) -> tuple[features.Classifier, np.ndarray]:
    """Return the classifier of clean images and the features of the training images."""
    section = models.load_config(file, {}).data
    found = features.classifier(workdir, section.name, path=section.path, settings=settings)
    train = data.load(section.name, "train", path=section.path)
    return found, features.extract(found, features.images_and_labels(train)[0])


def quality(found: features.Classifier, real: np.ndarray, pictures: np.ndarray, labels: Any) -> dict[str, Measured]:
    """Return metrics of images with requested labels, against the features of the training images."""
    of = features.extract(found, pictures)
    shuffled = np.random.default_rng(0).permutation(of)  # labels cycle, but the jackknife requires a random order
    d, pr = distance(shuffled, real), precision_recall(of, real)
    ends = [(pictures == end).reshape(len(pictures), -1).mean(1) for end in (0, found.vocabulary - 1)]
    return {
        "accuracy": mean_of(features.labels(found, pictures) == labels),
        "precision": mean_of(pr.covered),
        "recall": mean_of(pr.reached),
        "frechet": Measured(d.plain, d.standard_error, len(of)),
        "black": mean_of(ends[0]),
        "white": mean_of(ends[1]),
    }


def of_test(config: dict[str, Any], seed: int, workdir: epath.Path) -> Outcome:
    found, real = reference(config["file"], features.Settings(**config["classifier"]), workdir)
    section = models.load_config(config["file"], {}).data
    test = features.images_and_labels(data.load(section.name, "test", path=section.path), config["samples"])
    overall = Measured(found.about["accuracy"], n=found.about["test_images"])
    return Outcome({**quality(found, real, *test), "accuracy_of_all": overall}, {"title": found.title})


def of_samples(config: dict[str, Any], seed: int, workdir: epath.Path) -> Outcome:
    found, real = reference(config["file"], features.Settings(**config["classifier"]), workdir)
    judge = trained(config["judge"], seed, workdir) if "judge" in config else None
    draw = Draw(config["by"], config["steps"], config["percentile"])
    model = trained(config["model"], seed, workdir)
    pictures, labels = images(draw, model, judge, config["strength"], config["samples"], seed)
    shown = pictures[:SHOWN].reshape(SHOWN, -1).tolist() if seed == 1 else []
    return Outcome(quality(found, real, pictures, labels), {"images": shown})


def of_bits(config: dict[str, Any], seed: int, workdir: epath.Path) -> Outcome:
    """Measure bits/dim given the label and given ∅, and their difference with the same noise."""
    values = bits_per_dim(trained(config["model"], seed, workdir), seed, config["passes"])
    measured = {f"bits_{name}": mean_of(of) for name, of in values.items()}
    if len(values) == 2:
        measured["label_saves"] = mean_of(values["unconditional"] - values["conditional"])
    return Outcome(measured)


def of_classifiers(config: dict[str, Any], seed: int, workdir: epath.Path) -> Outcome:
    """Measure the accuracy of both classifiers on the same noisy test images of one level."""
    model, judge = (trained(config[role], seed, workdir) for role in ("model", "judge"))
    level = max(round(config["t"] * model.config.schedule.num_timesteps) - 1, 0)
    z, labels = noisy(model, level, config["count"], seed)
    right = {
        "noisy_classifier": trained_logits(judge, z, level).argmax(1) == labels,
        "implicit": implicit_logits(model, z, level, config["noises"], seed).argmax(1) == labels,
    }
    measured = {f"accuracy_{name}": mean_of(of) for name, of in right.items()}
    return Outcome(measured | {"implicit_minus_noisy": mean_of(right["implicit"] * 1.0 - right["noisy_classifier"])})


def of_cost(config: dict[str, Any], seed: int, workdir: epath.Path) -> Outcome:
    """Measure the time of guided sampling relative to unguided sampling, alternating, after warm-up."""
    model, judge = (trained(config[role], seed, workdir) for role in ("model", "judge"))
    count, steps, repeats = config["timed"]

    def timed(by: str, of: models.Model | None) -> Callable[[], float]:
        def run() -> float:
            before = time.perf_counter()
            images(Draw(by, steps), model, of, 1.0, count, seed)
            return (time.perf_counter() - before) / steps

        return run

    seconds = in_turn([timed("labels", None), timed("classifier-free", None), timed("Σ", judge)], repeats)
    return Outcome(
        {
            "unguided_step_seconds": median(seconds[:, 0]),
            "classifier_free_ratio": median(seconds[:, 1] / seconds[:, 0]),
            "classifier_ratio": median(seconds[:, 2] / seconds[:, 0]),
            "judge_parameters": Measured(sum(a.size for a in jax.tree.leaves(judge.params))),
            "model_parameters": Measured(sum(a.size for a in jax.tree.leaves(model.params))),
        }
    )


KINDS = {"test": of_test, "samples": of_samples, "bits": of_bits, "classify": of_classifiers, "cost": of_cost}


def measure(row: Row, seed: int, workdir: epath.Path) -> Outcome:
    return KINDS[row.config["kind"]](dict(row.config), seed, workdir)


EXPERIMENT = common.Experiment(
    "guidance_tradeoff",
    "Class accuracy and diversity under guidance, and what guidance costs",
    "Samples of all classes in turns by ancestral steps over some of the levels, learned variance, x̂ clipped, from the "
    "same noise in all rows of a seed. `accuracy` is of a small classifier trained on clean images, whose own on test "
    "images is in the first row; so are precision and recall (k = 3) and the Fréchet distance of as many test images, "
    "all in its features, against all training images; they compare with nothing outside this table. Classes in turns "
    "make a distance smaller than random ones would. `black`, `white`: share of pixels at an end of their range. "
    "w is that of the classifier-free paper, s a classifier's scale; the conditional model is the classifier-free one "
    "at w = 0, with p_uncond = .1 where nothing else is said. S in the figure is 1 + w, s, or 1 + s. A classifier acts "
    "by Σ as learned, where no other shift is named; a score shift after the clip (guided diffusion's order) leaves x̂ "
    "outside its range. `label_saves`: bits/dim, by the same noise. The implicit classifier takes the label of the "
    "best bound on log p(z|c), by ε-errors over the chain above z, the same few noises for all labels. `_ratio`: of "
    "times of a sampling step, in turns, warm; ± is half the interquartile range.\n\n"
    "As in the papers: precision is bought with recall; classifier-free guidance comes nearest to the data at a "
    "small w, which the errors do not tell from none, and is clearly off at a large one; a classifier has to be "
    "scaled beyond 1 to find the class without a conditional model. Not as there: at equal w a smaller p_uncond "
    "guides harder, since its ∅ is worse, and has less recall (the paper has .1 and .2 about equal and .5 worse). "
    "Pixels do not gather at the ends of their range: fewer are black as w grows, a few more are white, and "
    "unguided samples have fewer of both than real images; dynamic thresholding grays them. Σ as learned and β in "
    "the mean cannot be told apart here, nor can the score shift if x̂ is clipped after it. Clipped before, as "
    "guided diffusion does for DDIM, it ruins ancestral samples: it moves a mean by σ²/α, not by Σ < 1, and in the "
    "first of 25 steps of cosine β that is 1,300.",
    lambda scale: models.describe_data(models.load_config(FILES[scale], {})),
    rows,
    measure,
    plot,
)

if __name__ == "__main__":
    common.main(EXPERIMENT)
