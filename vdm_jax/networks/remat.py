"""What the backward pass keeps of a block and what it computes again."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax

from vdm_jax.networks import sharing
from vdm_jax.networks.conv import CONV_OUTPUT


def rematerialised(block: Any, kind: str, scanned: bool = True) -> Any:
    """'none': all activations are kept for the backward pass; 'full': only what enters a block, which is run
    again; 'convs': the outputs of convolutions too, so that norms, swish and dropout alone are run again.
    Kernels that were gathered for a block are never kept. scanned: a loop's body can't be merged with its
    second run; outside of loops XLA must be kept from doing so."""
    if kind == "none" and sharing.parts() == 1:
        return block
    kept = {"none": sharing.not_gathered, "full": None}
    policy = kept[kind] if kind in kept else jax.checkpoint_policies.save_only_these_names(CONV_OUTPUT)
    return nn.remat(block, prevent_cse=not scanned, policy=policy)
