"""Quality of a set of samples: Fréchet distance, precision and recall against a split, in pixel features.

The features are images downsampled by area averaging to at most 8 × 8 pixels, or unchanged points. A Fréchet
distance in them is not an FID, which requires features of Inception-v3. It is comparable only between models of the
same data set at equal numbers of samples.
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
from vdm_jax.evaluation.likelihood import weights_of
from vdm_jax.evaluation.precision_recall import precision_recall
from vdm_jax.evaluation.samples import sample
from vdm_jax.networks import resample

SIDE, GROUPS, NEIGHBORS = 8, 20, 3
NUM_SAMPLES = 1000  # for methods that are evaluated by samples only


def pixels(images: np.ndarray, vocabulary: int | None) -> np.ndarray:
    """Return features float64 [N, D] of data [N, …]: images in [−1, 1] averaged to at most 8 × 8 pixels, or points."""
    values: np.ndarray = np.asarray(images, np.float32)
    if vocabulary:
        values = 2 * values / (vocabulary - 1) - 1
    if values.ndim == 4:
        height, width = values.shape[1:3]
        side = max(n for n in range(1, SIDE + 1) if height % n == 0 and width % n == 0)
        values = np.asarray(resample.area(jnp.asarray(values), side))
    return values.reshape(len(values), -1).astype(np.float64)


def measure(config: ConfigDict, method: Method, params: Any, mesh: Mesh, split: data.Dataset) -> dict[str, Any]:
    """Draw `evaluation.num_samples` samples and compare them with the first as many images of a split.

    Returns:
      The entry of eval.json for a set of samples; equal on all processes.

    Raises:
      UserError: there are too few samples or images.
    """
    requested = config.evaluation.num_samples or NUM_SAMPLES
    count = min(requested, split.num_examples)
    if count < 2 * GROUPS:
        raise UserError(
            f"config.evaluation.num_samples={requested} with {split.num_examples} examples of {split.name} "
            f"{split.split} is too few for a Fréchet distance; it needs {2 * GROUPS} of either"
        )
    vocabulary = config.data.vocabulary or None
    drawn = pixels(sample(config, method, params, mesh, requested).images, vocabulary)
    real = pixels(np.stack([split.source[k]["image"] for k in range(count)]), vocabulary)
    measured, shared = distance(drawn, real), min(requested, count)
    near = precision_recall(drawn[:shared], real[:shared], NEIGHBORS)
    return {
        "features": "points" if len(config.data.shape) == 1 else f"pixels, area means ({drawn.shape[1]} numbers)",
        "frechet_distance": measured.corrected,
        "standard_error": measured.standard_error,
        "frechet_distance_biased": measured.plain,
        "precision": near.precision,
        "recall": near.recall,
        "samples": requested,
        "examples": count,
        "sampler": config.sampling.sampler,
        "num_steps": config.sampling.num_steps,
        "seed": config.sampling.seed,
        "dataset": f"{split.name} ({split.version})",
        "split": split.split,
    }


def sentence(measured: dict[str, Any], about: dict[str, Any], decay: float | None = None) -> str:
    """Return a result as 'Fréchet distance 0.0123 ± 0.0045, precision …'; arguments as for `likelihood.sentence`."""
    return (
        f"Fréchet distance {measured['frechet_distance']:.4f} ± {measured['standard_error']:.4f}, precision "
        f"{measured['precision']:.3f}, recall {measured['recall']:.3f} of {measured['samples']} samples in "
        f"{measured['features']} ({measured['sampler']}, {measured['num_steps']} steps; "
        f"{weights_of(about, decay)}; "
        f"{measured['examples']} images of {measured['split']}, {measured['dataset']})"
    )
