"""Zero-shot classification by prompts (Radford et al. 2021, §3.1.4): class names in an ensemble of templates."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from etils import epath
from jax import Array

from vdm_jax.errors import UserError

TEMPLATE = "a photo of a {}."


class Prompts(NamedTuple):
    """The names of the classes in the order of their labels, and the templates with {} for the name."""

    classes: tuple[str, ...]
    templates: tuple[str, ...] = (TEMPLATE,)

    def texts(self) -> list[str]:
        """Return all prompts, class by class: [classes · templates]."""
        return [template.replace("{}", name) for name in self.classes for template in self.templates]


def prompts(classes: Sequence[str], templates: Sequence[str] = (TEMPLATE,), where: str = "prompts") -> Prompts:
    """Check class names and templates; raise UserError, which names `where`, if they are not usable."""
    for what, given in (("classes", classes), ("templates", templates)):
        if isinstance(given, str) or not given or not all(isinstance(each, str) and each.strip() for each in given):
            raise UserError(f"{where}: {what} must be a list of nonempty strings, not {given!r:.80}")
    if bad := [each for each in templates if "{}" not in each]:
        raise UserError(f"{where}: the template {bad[0]!r} has no {{}} for the name of a class; add it")
    return Prompts(tuple(classes), tuple(templates))


def read(path: str) -> Prompts:
    """Read {"classes": […], "templates": […]} from a JSON file; without templates there is one, 'a photo of a {}.'.

    Raises:
        UserError: The file is missing or has another content.
    """
    where = f"config.evaluation.prompts={path!r}"
    try:
        content = json.loads(epath.Path(path).expanduser().read_text())
        return prompts(content["classes"], content.get("templates", (TEMPLATE,)), where)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f'{where} is not a readable JSON file with {{"classes": ["cat", …], "templates": ["a photo of a {{}}."]}} '
            f"({type(error).__name__}: {error})"
        ) from error


def class_embeddings(text: Array, classes: int) -> Array:
    """Average the normalized embeddings of each class's prompts and normalize the mean.

    Args:
        text: Embeddings of norm 1, [classes · templates, E].
        classes: The number of classes.

    Returns:
        [classes, E], each of norm 1.
    """
    means = text.reshape(classes, -1, text.shape[-1]).mean(axis=1)
    return means / jnp.linalg.norm(means, axis=-1, keepdims=True)


def summarize(rank: np.ndarray, labels: np.ndarray, prompts: Prompts) -> dict[str, Any]:
    """Return top-1 and top-5 accuracy with standard errors, and the mean over classes of top-1.

    Args:
        rank: The number of classes that are at least as similar to the image as its own, [N].
        labels: The labels, [N].
        prompts: The prompts of the classes.
    """
    count, classes = len(rank), len(prompts.classes)
    result: dict[str, Any] = {"classes": classes, "templates": len(prompts.templates), "chance": 1 / classes}
    for k in (1, 5):
        share = float(np.mean(rank < k))
        result[f"top{k}"] = share
        result[f"top{k}_standard_error"] = float(np.sqrt(share * (1 - share) / max(count - 1, 1)))
    by_class = [float(np.mean(rank[labels == label] < 1)) for label in np.unique(labels)]
    return result | {"mean_per_class": float(np.mean(by_class))}


def words(result: dict[str, Any]) -> str:
    """Return a result of `summarize` as one line."""
    return (
        f"{result['split']} zero-shot top-1 {result['top1']:.4f} ± {result['top1_standard_error']:.4f}, top-5 "
        f"{result['top5']:.4f} ± {result['top5_standard_error']:.4f}, mean per class {result['mean_per_class']:.4f} "
        f"({result['classes']} classes, {result['templates']} templates, chance {result['chance']:.4f}; "
        f"{result['dataset']})"
    )
