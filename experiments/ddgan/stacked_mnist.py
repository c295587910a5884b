"""StackedMNIST (table 3 of Xiao, Kreis & Vahdat 2022): how many of 1,000 modes samples cover, and how evenly.

Each channel of a sample is classified as a digit by a classifier that is trained here; a mode is a triple of digits.
For N samples, `modes` is the number of triples that occur and `kl_nats` is KL(shares of samples ‖ shares of the data);
those of the data are products of the digits' shares in a channel. A perfect sampler has 999/(2N) on average, not 0.

    MNIST=PATH python -m experiments.ddgan.stacked_mnist --mini --seeds=1

PATH: a folder with the idx files of `mnist` or an .npz file, unless they are in a standard place. The paper states
neither N nor the classifier; its code for this table was never released.
"""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any

import jax
import numpy as np
from etils import epath
from matplotlib.figure import Figure

from experiments import common, models
from experiments.common import Measured, Outcome, Results, Row, mean_of
from vdm_jax import data, methods, weights
from vdm_jax.evaluation import features, report
from vdm_jax.evaluation.frechet import distance
from vdm_jax.presets.gan import DDGAN_ABLATIONS, STACKED_MINI
from vdm_jax.runtime import checkpoints, devices

FILE = "configs/ddgan_stackedmnist.py"
PATH = os.environ.get("MNIST", "")
SAMPLES, DRAWS, SHOWN, MODES = 20_000, 20, 24, 1000
CLASSIFIER = features.Settings(steps=1000)
SIZES: dict[str, dict[str, Any]] = {
    "mini": {**STACKED_MINI, "training.keep_every": 1000},
    "paper": {"training.keep_every": 50_000},
}
AFTER = {"mini": (1000, 5000, 10_000), "paper": (50_000, 150_000)}  # training steps
MODELS: dict[str, dict[str, dict[str, Any]]] = {
    "mini": {"DDGAN": {}},
    "paper": {"DDGAN": {}, "GAN": {**DDGAN_ABLATIONS["T1"], "training.r1_every": 0}},
}
QUOTED = {
    "VEEGAN": (762, 2.173),
    "PacGAN": (992, 0.277),
    "PresGAN": (1000, 0.115),
    "InclusiveGAN": (997, 0.200),
    "StyleGAN2": (940, 0.424),
    "Adversarial DSM": (1000, 1.49),
    "VAEBM": (1000, 0.087),
    "DDGAN of the paper": (1000, 0.071),
}


def config_of(scale: str, changes: dict[str, Any]) -> dict[str, Any]:
    """Return the entry for the model in a row."""
    return models.identity(FILE, {**SIZES[scale], **changes})


def rows(scale: str) -> list[Row]:
    shape = tuple(models.load_config(FILE, SIZES[scale]).data.shape)
    shared = {"samples": SAMPLES, "shape": shape, "classifier": CLASSIFIER._asdict()}
    found = [
        Row("perfect sampler", {"kind": "perfect", "samples": SAMPLES, "draws": DRAWS}),
        Row("test images by their labels", {"kind": "labels", **shared}),
        Row("test images, classified", {"kind": "test", **shared}),
    ]
    for name, own in MODELS[scale].items():
        of = config_of(scale, own)
        for steps in AFTER[scale]:
            told = f"{name}, after {steps:,} of {of['fields']['training.num_steps']:,} steps"
            found.append(Row(told, {"kind": "model", **shared, **of, "steps": steps}))
    return found + [Row(f"{k} (quoted)", {}, {"modes": m, "kl_nats": kl}, True) for k, (m, kl) in QUOTED.items()]


def coverage(triples: np.ndarray, expected: np.ndarray) -> dict[str, Measured]:
    """Compute the number of modes and KL(shares ‖ expected) in nats from modes [N] in 0 … 999 and shares [1000].

    The standard error of KL is by the delta method, √(Var ln(share/expected)/N); `floor` is its mean for a perfect
    sampler.
    """
    counts = np.bincount(triples, minlength=MODES)
    ratio = np.log(counts[triples] / len(triples) / expected[triples])
    return {
        "modes": Measured(float(np.sum(counts > 0)), None, len(triples)),
        "kl_nats": mean_of(ratio),
        "floor": Measured((MODES - 1) / (2 * len(triples))),
    }


@lru_cache(maxsize=1)
def expected() -> np.ndarray:
    """Return the shares of the 1,000 triples in the training data, whose channels are independent: [1000]."""
    digits = data.load("mnist", "train", path=PATH)
    share = np.bincount([digits.source[k]["label"] for k in range(digits.num_examples)], minlength=10)
    share = share / share.sum()
    return np.einsum("a,b,c->abc", share, share, share).reshape(-1)


def dataset(shape: tuple[int, ...], split: str) -> data.Dataset:
    return data.load("stacked_mnist", split, path=PATH, shape=shape)


@lru_cache(maxsize=1)
def digit_classifier(shape: tuple[int, ...], workdir: epath.Path) -> tuple[features.Classifier, np.ndarray, np.ndarray]:
    """Return a classifier of single channels, and the features of the training and the test digits."""
    single = (*shape[:2], 1)
    found = features.classifier(workdir, "mnist", path=PATH, shape=single, settings=CLASSIFIER)
    parts = (data.load("mnist", split, path=PATH, shape=single) for split in ("train", "test"))
    train, test = (features.extract(found, features.images_and_labels(part)[0]) for part in parts)
    return found, train, test


def classified(found: features.Classifier, images: np.ndarray) -> np.ndarray:
    """Classify images [N, H, W, 3] as modes 100 a + 10 b + c, int [N]."""
    digits = [features.labels(found, images[..., k : k + 1]) for k in range(3)]
    return 100 * digits[0] + 10 * digits[1] + digits[2]


def measure(row: Row, seed: int, workdir: epath.Path) -> Outcome:
    config, count = row.config, row.config["samples"]
    if config["kind"] == "perfect":
        rng = np.random.default_rng(seed)
        draws = [coverage(rng.choice(MODES, count, p=expected()), expected()) for _ in range(config["draws"])]
        of = {name: mean_of([draw[name].mean for draw in draws]) for name in ("modes", "kl_nats")}
        return Outcome({**of, "floor": draws[0]["floor"]})
    shape = tuple(config["shape"])
    if config["kind"] in ("labels", "test"):
        images, labels = features.images_and_labels(dataset(shape, "test"), count)
        if config["kind"] == "labels":
            return Outcome(coverage(labels, expected()))
    found, train, test = digit_classifier(shape, workdir)
    if config["kind"] == "test":
        triples, own = classified(found, images), test
        more = {
            "digit_accuracy": Measured(found.about["accuracy"], n=found.about["test_images"]),
            "accuracy": mean_of(triples == labels),
        }
    else:
        images, more = samples(config, seed, workdir), {}
        triples = classified(found, images)
        own = np.concatenate([features.extract(found, images[..., k : k + 1]) for k in range(3)])
    d = distance(own, train)
    frechet = Measured(d.corrected, d.standard_error, len(own))
    curves = {
        "images": images[:SHOWN].reshape(SHOWN, -1).tolist(),
        "counts": np.bincount(triples, minlength=MODES).tolist(),
    }
    return Outcome({**coverage(triples, expected()), "frechet": frechet, **more}, curves)


def samples(row: Any, seed: int, workdir: epath.Path) -> np.ndarray:
    """Draw uint8 [N, H, W, 3] with the EMA weights of a checkpoint, training the model if it does not exist."""
    drawn = {"training.seed": seed, "data.path": PATH, "sampling.seed": seed, "sampling.batch_size": 500}
    config = models.load_config(row["file"], {**row["overrides"], **drawn})
    directory = models.directory_of(config, workdir)
    if row["steps"] not in checkpoints.steps(directory):
        models.trained(config, workdir)
    method, mesh = methods.build(config), devices.make_mesh(config.sampling.batch_size)
    params, _ = weights.load(str(directory / "checkpoints" / str(row["steps"])), config, method)
    params = jax.device_put(params, devices.replicated(mesh))
    return np.asarray(report.sample(config, method, params, mesh, row["samples"])[0])


def plot(results: Results) -> Figure:
    """Plot test images, samples of the first seed, and the frequencies of modes in descending order."""
    shown = [e for e in results["rows"] if e["config"].get("kind") in ("test", "model")]
    figure = Figure((4.2 * (1 + len(shown)), 4.4), layout="constrained")
    *pictures, counts = figure.subplots(1, 1 + len(shown))
    for axes, entry in zip(pictures, shown, strict=True):
        curves, measured = entry["runs"]["1"]["curves"], entry["measured"]
        axes.imshow(
            _grid(np.asarray(curves["images"], np.uint8).reshape(SHOWN, *entry["config"]["shape"])),
            interpolation="nearest",
        )
        axes.set(xticks=[], yticks=[])
        axes.set_title(f"{entry['name']}\n{measured['modes']['mean']:g} modes, KL {measured['kl_nats']['mean']:.3f}")
        counts.plot(sorted(curves["counts"], reverse=True), label=entry["name"])
    counts.set(title="frequency of each mode", xlabel="modes, most frequent first", ylabel=f"of {SAMPLES:,}")
    counts.legend(frameon=False)
    return figure


def _grid(images: np.ndarray, columns: int = 6) -> np.ndarray:
    """Arrange images [N, H, W, 3] in rows of `columns` images."""
    height, width = images.shape[1:3]
    return images.reshape(-1, columns, height, width, 3).swapaxes(1, 2).reshape(-1, columns * width, 3)


EXPERIMENT = common.Experiment(
    "stacked_mnist",
    "StackedMNIST: modes and their shares",
    "`modes`: triples of digits, of 1,000, that occur among the samples as a classifier of single digits reads their "
    "channels; `kl_nats`: KL of their shares to the data's, whose mean is `floor` = 999/(2N) for a perfect sampler of "
    "N samples; `n` is N. The row `test images, classified` is what real images reach with this classifier, its "
    "`digit_accuracy` is that of single test digits and `accuracy` of whole triples: what lies between it and `test "
    "images by their labels` are the classifier's errors. `frechet`: the distance between single channels and training "
    "digits in the classifier's features, without its O(1/N) bias; it is not FID. The classifier names a digit for any "
    "picture, so coverage says nothing of quality. The paper's numbers are of 32 × 32 pixels, a far larger network and "
    "an N and a classifier that it does not tell: they do not compare with a small-scale run, which is of averages of "
    "2 × 2 pixels, batches of 32 and a generator of about half a million weights; before the end of the training its "
    "rate has not yet fallen. Found: after 1,000 steps nothing is gained, by either measure. The discriminator's loss "
    "stays within .1 of 2 ln 2, a coin's, and the digits stay hardly legible: this is a run too small for the method.",
    lambda scale: (
        f"StackedMNIST {'×'.join(map(str, models.load_config(FILE, SIZES[scale]).data.shape))} "
        f"({dataset(tuple(models.load_config(FILE, SIZES[scale]).data.shape), 'test').version})"
    ),
    rows,
    measure,
    plot,
)

if __name__ == "__main__":
    common.main(EXPERIMENT)
