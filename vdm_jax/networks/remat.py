"""Rematerialization: which activations of a block the backward pass recomputes."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax

from vdm_jax.networks import sharing
from vdm_jax.networks.conv import CONV_OUTPUT


def rematerialized(block: Any, kind: str, scanned: bool = True) -> Any:
    """Wrap a block in `nn.remat` according to a rematerialization policy.

    Kernels that were gathered for a block (FSDP) are never saved for the backward pass.

    Args:
        block: The module class.
        kind: 'none' saves all activations. 'full' saves only the inputs of a block and recomputes the block. 'convs'
            also saves the outputs of convolutions, so only norms, swish and dropout are recomputed.
        scanned: True if the block is the body of a scan. Otherwise XLA must be prevented from eliminating the
            recomputation as a common subexpression.
    """
    if kind == "none" and sharing.parts() == 1:
        return block
    kept = {"none": sharing.not_gathered, "full": None}
    policy = kept[kind] if kind in kept else jax.checkpoint_policies.save_only_these_names(CONV_OUTPUT)
    return nn.remat(block, prevent_cse=not scanned, policy=policy)
