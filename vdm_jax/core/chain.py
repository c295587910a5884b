"""A bound sampler: initial noise, step rule, time grid and decoder. `Method.sample` runs it, editing wraps it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax import Array

from vdm_jax.diffusion import samplers
from vdm_jax.diffusion.decoders import NOT_FINITE
from vdm_jax.errors import UserError


class Chain(NamedTuple):
    """The steps from noise to data, for conditions that are chosen already.

    start: keys [b] → z_1 [b, …]. step, steps: for `samplers.run`, with noise by path_keys of the keys [b].
    end: (z after the last step, keys) → data [b, …]. visualize: (z_s [K, b, …] after the steps to keep, keep) → what a
    picture shows of them. final_nfe: evaluations of the network that `end` takes.
    """

    start: Callable[[Array], Array]
    path_keys: Callable[[Array], Array]
    step: samplers.Step
    steps: samplers.Transition
    end: Callable[[Array, Array], Array]
    visualize: Callable[[Array, Sequence[int]], Array] = lambda path, keep: path
    final_nfe: int = 0


def run(chain: Chain, keys: Array, keep: Sequence[int] = ()) -> tuple[Array, Any]:
    """(data [b, …], states after the K steps to keep)."""
    z, path = samplers.run(chain.step, chain.start(keys), chain.path_keys(keys), chain.steps, keep)
    return chain.end(z, keys), chain.visualize(path, keep)


def sampler(chain_of: Callable[[Any, Any, int], Chain]) -> Callable[..., tuple[Array, Any]]:
    """`Method.sample` of a method's (params, conditioning [b], num_steps) → Chain."""

    def sample(params: Any, keys: Array, cond: Any, num_steps: int, keep: Sequence[int] = ()) -> tuple[Array, Any]:
        return run(chain_of(params, cond, num_steps), keys, keep)

    return sample


def check_solved(tolerance: float, *evaluations: np.ndarray) -> None:
    """Raise UserError if the evaluations [N] of an adaptive sampler say that its solver failed for a sample."""
    failed = sum(int(np.sum(counts == 0)) for counts in evaluations)
    if failed:
        raise UserError(
            f"config.sampling.sampler='adaptive' failed on {failed} of {sum(map(len, evaluations))} samples at "
            f"config.sampling.tolerance={tolerance:g}: the network is not finite there, or too rough; set a larger "
            "tolerance, or sampler='heun'"
        )


def check_finite(samples: np.ndarray) -> None:
    """Raise UserError if some of [N, …] are not finite, or the level of such a number."""
    whole = np.isfinite(samples) if samples.dtype.kind == "f" else samples != NOT_FINITE
    bad = int(np.sum(~whole.reshape(len(samples), -1).all(1)))
    if bad:
        raise UserError(
            f"{bad} of {len(samples)} samples are NaN or infinite: the network gave no finite numbers; take another "
            "checkpoint (--weights=WORKDIR/checkpoints/STEP) or another config.sampling.sampler"
        )
