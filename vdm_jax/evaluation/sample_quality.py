"""A set of samples against images of a split: Fréchet distance, precision and recall in features of plain pixels.

The features are area means of at most 8 × 8 pixels, or points as they are. A Fréchet distance in them is not an FID:
that name is for features of Inception-v3. It compares models of one data set, at equal numbers of samples.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vdm_jax import data
from vdm_jax.core.method import Method
from vdm_jax.errors import UserError
from vdm_jax.evaluation.frechet import distance
from vdm_jax.evaluation.precision_recall import precision_recall
from vdm_jax.evaluation.samples import sample
from vdm_jax.networks import resample

SIDE, GROUPS, NEIGHBORS = 8, 20, 3
NUM_SAMPLES = 1000  # of a method that is measured by its samples alone


def pixels(images: np.ndarray, vocabulary: int | None) -> np.ndarray:
    """Features [N, D] of data [N, …]: pixels in [−1, 1] as area means of at most 8 × 8, float64; points as they are."""
    values: np.ndarray = np.asarray(images, np.float32)
    if vocabulary:
        values = 2 * values / (vocabulary - 1) - 1
    if values.ndim == 4:
        height, width = values.shape[1:3]
        side = max(n for n in range(1, SIDE + 1) if height % n == 0 and width % n == 0)
        values = np.asarray(resample.area(jnp.asarray(values), side))
    return values.reshape(len(values), -1).astype(np.float64)


def measure(config: ConfigDict, method: Method, params: Any, mesh: Mesh, split: data.Dataset) -> dict[str, Any]:
    """What eval.json holds of a set of samples; equal on all processes.

    As many samples as `evaluation.num_samples`, drawn as `sampling` says, against the first as many images of the
    split. Raises UserError if there are too few of either.
    """
    asked = config.evaluation.num_samples or NUM_SAMPLES
    count = min(asked, split.num_examples)
    if count < 2 * GROUPS:
        raise UserError(
            f"config.evaluation.num_samples={asked} with {split.num_examples} examples of {split.name} "
            f"{split.split} is too few for a Fréchet distance; it needs {2 * GROUPS} of either"
        )
    vocabulary = config.data.vocabulary or None
    drawn = pixels(sample(config, method, params, mesh, asked).images, vocabulary)
    real = pixels(np.stack([split.source[k]["image"] for k in range(count)]), vocabulary)
    found, shared = distance(drawn, real), min(asked, count)
    near = precision_recall(drawn[:shared], real[:shared], NEIGHBORS)
    return {
        "features": "points" if len(config.data.shape) == 1 else f"pixels, area means ({drawn.shape[1]} numbers)",
        "frechet_distance": found.corrected,
        "standard_error": found.standard_error,
        "frechet_distance_biased": found.plain,
        "precision": near.precision,
        "recall": near.recall,
        "samples": asked,
        "examples": count,
        "sampler": config.sampling.sampler,
        "num_steps": config.sampling.num_steps,
        "seed": config.sampling.seed,
        "dataset": f"{split.name} ({split.version})",
        "split": split.split,
    }


def sentence(found: dict[str, Any], about: dict[str, Any]) -> str:
    """'Fréchet distance .0123 ± .0045 in pixels …'."""
    return (
        f"Fréchet distance {found['frechet_distance']:.4f} ± {found['standard_error']:.4f}, precision "
        f"{found['precision']:.3f}, recall {found['recall']:.3f} of {found['samples']} samples in {found['features']} "
        f"({found['sampler']}, {found['num_steps']} steps; {about['weights']} weights, step {about['step']}; "
        f"{found['examples']} images of {found['split']}, {found['dataset']})"
    )
