"""Bits/dim, or another per-example measure of a method, over a split, with two error estimates.

Every example is evaluated once per pass. The standard error is over images (another test set); the Monte
Carlo error is over passes (other noise). Noise is keyed by (seed, pass, position in the split), so the result
does not depend on the batch size or the number of devices or processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh

from vdm_jax.core.method import Method
from vdm_jax.errors import UserError
from vdm_jax.keys import example_keys
from vdm_jax.optimizer import ema_steps
from vdm_jax.runtime.devices import put_batch, replicated, under
from vdm_jax.runtime.processes import placed

Batches = Callable[[], Iterable[dict[str, Any]]]


@lru_cache(maxsize=4)
def _measure(terms_of: Callable[..., dict[str, Array]], seed: int, mesh: Mesh) -> Callable[..., Any]:
    """Return (params, batch, pass number) → (terms [b], mask [b]), compiled once for all evaluations of a run."""

    def measure(params: Any, batch: dict[str, Any], number: Array) -> tuple[dict[str, Array], Array]:
        keys = example_keys(jax.random.fold_in(jax.random.key(seed), number), batch["index"])
        return terms_of(params, {k: batch[k] for k in ("x", "cond")}, keys), batch["mask"]

    return jax.jit(under(mesh, measure), out_shardings=replicated(mesh))


def per_example(
    method: Method, params: Any, batches: Batches, mesh: Mesh, *, seed: int, passes: int
) -> dict[str, np.ndarray]:
    """Return the named terms of every example, float64 [passes, N], in the order of the split.

    Args:
      method: the method.
      params: its parameters.
      batches: () → this process's rows of padded batches with 'mask' and 'index'; the size of a batch is divisible
        by the number of devices.
      mesh: the device mesh.
      seed: the seed of the noise.
      passes: the number of passes over the split.

    Raises:
      UserError: the method has no likelihood.
    """
    if method.measured is None:
        raise UserError("this method has no likelihood; use --mode=sample")
    terms, params = method.measured.terms, placed(params, mesh)
    rows = [one_pass(terms, params, batches, mesh, seed=seed, number=number) for number in range(passes)]
    return {k: np.stack([np.asarray(row[k], np.float64) for row in rows]) for k in rows[0]}


def one_pass(
    terms_of: Callable[..., dict[str, Array]], params: Any, batches: Batches, mesh: Mesh, *, seed: int, number: int
) -> dict[str, np.ndarray]:
    """Return named arrays [N, …] of every example of a split, in its order.

    Args:
      terms_of: (params, batch, keys [b]) → named arrays [b, …].
      params: parameters, placed on the mesh.
      batches: as for `per_example`.
      mesh: the device mesh.
      seed: the seed of the noise.
      number: the number of the pass, which has noise of its own.
    """
    function, parts = _measure(terms_of, seed, mesh), []
    for batch in batches():
        inputs = put_batch(mesh, {k: batch[k] for k in ("x", "cond", "index", "mask")})
        terms, mask = jax.device_get(function(params, inputs, np.int32(number)))
        parts.append({k: np.asarray(v)[mask > 0] for k, v in terms.items()})
    return {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}


def summarize(values: dict[str, np.ndarray], name: str = "bits_per_dim") -> dict[str, Any]:
    """Summarize the terms of a split.

    Args:
      values: the terms by name, [passes, N] each, or [passes, N, G] for terms at G noise levels.
      name: the key of the mean of 'total' in the result.

    Returns:
      The mean total, its standard error over images, the Monte Carlo error over passes (None for one pass), the
      mean of every other term, and the numbers of examples and passes.
    """
    total = values["total"]
    passes, examples = total.shape
    means = {k: float(v.mean()) for k, v in values.items() if k not in ("total", "t", "at_t", "error")}
    # Noise is independent between images, so their variances over passes are pooled: N (P − 1) degrees of
    # freedom, whereas the variance of the P means would have P − 1.
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
    """Average terms over groups of t, for per-level measures.

    Args:
      values: the terms [passes, N, G] at G noise levels, with their 't' = ℓ/T of a discrete schedule.
      names: maps each term to its name in the result.
      groups: the number of equal intervals of t.

    Returns:
      One row per nonempty group: the midpoint 't' and, for each term, mean and standard error over images.
    """
    place = np.maximum(np.ceil(values["t"] * groups - 1e-4).astype(int) - 1, 0)  # both ends inside
    rows = []
    for group in np.unique(place):
        here = place == group
        count = here.sum((0, 2))  # per image
        row: dict[str, Any] = {"t": (int(group) + 0.5) / groups}
        for term, name in names.items():
            of_images = np.sum(values[term] * here, (0, 2))[count > 0] / count[count > 0]
            row |= {name: float(of_images.mean()), f"{name}_standard_error": _standard_error(of_images)}
        rows.append(row)
    return rows


def sentence(result: dict[str, Any], decay: float | None = None) -> str:
    """Return a result as 'test bits/dim 1.8312 ± 0.0121 (standard error over 297 images; …)'.

    The key 'headline' of the result lists the measures to report; by default 'bits_per_dim'.

    Args:
      result: the content of eval.json.
      decay: the decay of averaged weights; None if it is not known.
    """
    error, spread, passes = (result[k] for k in ("standard_error", "monte_carlo_error", "passes"))
    name, *also = result.get("headline", ("bits_per_dim",))
    noise = "unknown from one pass" if spread is None else f"{spread:.4f} over {passes} passes"
    given = f" given {result['given']}" if "given" in result else ""
    more = "".join(f", {k} {result[k]:.4f}" for k in also)
    more += f", with uniform noise {result['uniform']:.4f}" if "uniform" in result else ""
    return (
        f"{result['split']} {words(name)}{given} {result[name]:.4f} "
        f"± {float('nan') if error is None else error:.4f}{more} "
        f"(standard error over {result['examples']} images; Monte Carlo error {noise}; "
        f"{result['estimator']}, {weights_of(result, decay)}, {result['dataset']})"
    )


def weights_of(result: dict[str, Any], decay: float | None = None) -> str:
    """Describe the weights of a result, such as 'averaged weights (EMA, decay 0.99, about the last 3 steps), step 20'.

    Args:
      result: the content of eval.json.
      decay: the decay of averaged weights; None if it is not known.
    """
    step, source = result["step"], f" of {result['weights_from']}" if "weights_from" in result else ""
    about = "" if decay is None or source or not step else f", decay {decay:g}, about the last {_steps(step, decay)}"
    which = f"averaged weights (EMA{about})" if result["weights"] == "ema" else "raw weights (not averaged)"
    return f"{which}{source}, step {step}"


def _steps(step: int, decay: float) -> str:
    count = round(ema_steps(step, decay))
    return "step" if count == 1 else f"{count:,} steps"


def words(name: str) -> str:
    """Return the display name of a measure, such as 'bits/dim' or 'cross entropy'."""
    return {"bits_per_dim": "bits/dim"}.get(name, name.replace("_", " "))
