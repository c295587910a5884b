"""Bits/dim, or what else a method measures, over a whole split: every example once per pass, with both of its errors.

The standard error is over images (what another test set would change); the Monte Carlo error is over
passes (what other noise would change). Noise is keyed by (seed, pass, position in the split), so
neither the batch size nor the number of devices or processes enters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vdm_jax.config import flatten
from vdm_jax.consistency.tables import num_levels
from vdm_jax.errors import UserError
from vdm_jax.methods.base import Method, example_keys
from vdm_jax.runtime.devices import put_batch, replicated, under
from vdm_jax.runtime.processes import placed

Batches = Callable[[], Iterable[dict[str, np.ndarray]]]


@lru_cache(maxsize=4)
def _measure(terms_of: Callable[..., dict[str, Array]], seed: int, mesh: Mesh) -> Callable[..., Any]:
    """(params, batch, number of the pass) → (terms [b], mask [b]), compiled once for all evaluations of a run."""

    def measure(params: Any, batch: dict[str, Array], number: Array) -> tuple[dict[str, Array], Array]:
        keys = example_keys(jax.random.fold_in(jax.random.key(seed), number), batch["index"])
        return terms_of(params, {k: batch[k] for k in ("image", "conditioning")}, keys), batch["mask"]

    return jax.jit(under(mesh, measure), out_shardings=replicated(mesh))


def per_example(
    method: Method, params: Any, batches: Batches, mesh: Mesh, *, seed: int, passes: int
) -> dict[str, np.ndarray]:
    """Named terms of every example, float64 [passes, N], in the order of the split; equal on all processes.

    batches: () → this process's rows of padded batches with 'mask' and 'index', whose size the devices divide.
    """
    if method.measured is None:
        raise UserError("this method has no likelihood; use --mode=sample")
    function, params = _measure(method.measured.terms, seed, mesh), placed(params, mesh)
    rows: list[dict[str, np.ndarray]] = []
    for number in range(passes):
        parts = []
        for batch in batches():
            inputs = put_batch(mesh, {k: batch[k] for k in ("image", "conditioning", "index", "mask")})
            terms, mask = jax.device_get(function(params, inputs, np.int32(number)))
            parts.append({k: np.asarray(v, np.float64)[mask > 0] for k, v in terms.items()})
        rows.append({k: np.concatenate([p[k] for p in parts]) for k in parts[0]})
    return {k: np.stack([row[k] for row in rows]) for k in rows[0]}


def summarise(values: dict[str, np.ndarray], name: str = "bits_per_dim") -> dict[str, Any]:
    """The mean total by that name, its standard error over images, Monte Carlo error over passes (null for one
    pass), and the mean of every term. values: [passes, N], by level [passes, N, G]."""
    total = values["total"]
    passes, examples = total.shape
    means = {k: float(v.mean()) for k, v in values.items() if k not in ("total", "t", "at_t", "error")}
    # Noise is independent between images, so their variances over passes pool: N (P − 1) degrees of
    # freedom, where the spread of the P means would have P − 1.
    spread = float(np.sqrt(total.var(0, ddof=1).mean() / (passes * examples))) if passes > 1 else None
    return {
        name: float(total.mean()),
        "standard_error": _standard_error(total.mean(0)),
        "monte_carlo_error": spread,
        **means,
        "examples": examples,
        "passes": passes,
    }


def _standard_error(of_images: np.ndarray) -> float | None:
    count = len(of_images)
    return float(of_images.std(ddof=1) / np.sqrt(count)) if count > 1 else None


def by_level(values: dict[str, np.ndarray], names: Mapping[str, str], groups: int = 10) -> list[dict[str, Any]]:
    """For every group of t that has levels its middle and, of each named term, mean and standard error over images.

    values: [passes, N, G], 't' among them, t = ℓ/T of a table. names: term → what it is called.
    """
    place = np.maximum(np.ceil(values["t"] * groups - 1e-4).astype(int) - 1, 0)  # 1/T and 1 belong to the ends
    rows = []
    for group in np.unique(place):
        here = place == group
        count = here.sum((0, 2))  # of every image
        row: dict[str, Any] = {"t": (int(group) + 0.5) / groups}
        for term, name in names.items():
            of_images = np.sum(values[term] * here, (0, 2))[count > 0] / count[count > 0]
            row |= {name: float(of_images.mean()), f"{name}_standard_error": _standard_error(of_images)}
        rows.append(row)
    return rows


def estimator_name(config: ConfigDict) -> str:
    """'vlb_continuous', 'vlb_T=1000', 'vlb_T=4000, 64 levels an image' or 'ode'."""
    section = config.evaluation
    if section.estimator == "ode":
        return "ode"
    if config.method != "ddpm":
        return f"vlb_T={section.num_timesteps}" if section.num_timesteps else "vlb_continuous"
    drawn = f", {section.levels} levels an image" if section.levels else ""
    return f"vlb_T={num_levels(dict(flatten(config)))}{drawn}"


def sentence(result: dict[str, Any]) -> str:
    """'test bits/dim 1.8312 ± 0.0121 (standard error over 297 images; …)'; under 'headline' what else is told."""
    error, spread, passes = (result[k] for k in ("standard_error", "monte_carlo_error", "passes"))
    name, *also = result.get("headline", ("bits_per_dim",))
    noise = "unknown from one pass" if spread is None else f"{spread:.4f} over {passes} passes"
    source = f" of {result['weights_from']}" if "weights_from" in result else ""
    given = f" given {result['given']}" if "given" in result else ""
    more = "".join(f", {k} {result[k]:.4f}" for k in also)
    more += f", with uniform noise {result['uniform']:.4f}" if "uniform" in result else ""
    return (
        f"{result['split']} {words(name)}{given} {result[name]:.4f} "
        f"± {float('nan') if error is None else error:.4f}{more} "
        f"(standard error over {result['examples']} images; Monte Carlo error {noise}; "
        f"{result['estimator']}, {result['weights']} weights{source}, step {result['step']}, {result['dataset']})"
    )


def words(name: str) -> str:
    """'bits/dim', 'cross entropy'."""
    return {"bits_per_dim": "bits/dim"}.get(name, name.replace("_", " "))
