"""A sampler with its parameters and conditions bound. `Method.sample` runs it, and editing wraps it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax import Array

from vdm_jax.diffusion import samplers
from vdm_jax.diffusion.decoders import NOT_FINITE
from vdm_jax.errors import UserError


class Chain(NamedTuple):
    """A bound sampler: initial noise, step rule, time grid and decoder.

    Attributes:
        start: keys [b] → z_1 [b, …].
        path_keys: keys [b] → the keys of the steps' noise, [b].
        step: The step rule for `samplers.run`.
        steps: The steps t → s, in the order in which they are taken.
        end: (z after the last step, keys [b]) → data [b, …].
        visualize: (z_s [K, b, …] after the kept steps, keep) → states on the scale of pictures.
        final_nfe: The number of network evaluations in `end`.
    """

    start: Callable[[Array], Array]
    path_keys: Callable[[Array], Array]
    step: samplers.Step
    steps: samplers.Transition
    end: Callable[[Array, Array], Array]
    visualize: Callable[[Array, Sequence[int]], Array] = lambda path, keep: path
    final_nfe: int = 0


def run(chain: Chain, keys: Array, keep: Sequence[int] = ()) -> tuple[Array, Any]:
    """Run a chain.

    Args:
        chain: The chain.
        keys: One key per sample, [b].
        keep: The indices of the K steps whose states are returned.

    Returns:
        The samples [b, …] and the states [K, b, …] after the kept steps.
    """
    z, path = samplers.run(chain.step, chain.start(keys), chain.path_keys(keys), chain.steps, keep)
    return chain.end(z, keys), chain.visualize(path, keep)


def sampler(chain_of: Callable[[Any, Any, int], Chain]) -> Callable[..., tuple[Array, Any]]:
    """Return `Method.sample` of a method whose chains are `chain_of`: (params, conditions [b], num_steps) → Chain."""

    def sample(params: Any, keys: Array, cond: Any, num_steps: int, keep: Sequence[int] = ()) -> tuple[Array, Any]:
        return run(chain_of(params, cond, num_steps), keys, keep)

    return sample


def check_solved(tolerance: float, *evaluations: np.ndarray) -> None:
    """Check that an adaptive solver succeeded on every sample.

    Args:
        tolerance: The tolerance of the solver, for the message.
        evaluations: Numbers of network evaluations, [N] each; 0 marks a failure.

    Raises:
        UserError: The solver failed on a sample.
    """
    failed = sum(int(np.sum(counts == 0)) for counts in evaluations)
    if failed:
        raise UserError(
            f"config.sampling.sampler='adaptive' failed on {failed} of {sum(map(len, evaluations))} samples at "
            f"config.sampling.tolerance={tolerance:g}: the network's output is not finite or changes too fast; set a "
            "larger tolerance, or sampler='heun'"
        )


def check_finite(samples: np.ndarray) -> None:
    """Check that all samples [N, …] are finite; integer samples mark a non-finite pixel by `decoders.NOT_FINITE`.

    Raises:
        UserError: A sample is not finite.
    """
    is_finite = np.isfinite(samples) if samples.dtype.kind == "f" else samples != NOT_FINITE
    bad = int(np.sum(~is_finite.reshape(len(samples), -1).all(1)))
    if bad:
        raise UserError(
            f"{bad} of {len(samples)} samples are NaN or infinite: the network's output is not finite; use another "
            "checkpoint (--weights=WORKDIR/checkpoints/STEP) or another config.sampling.sampler"
        )
