"""Names in the parameter tree of `networks.multiscale.UNet` for readers of published weights.

Published code numbers its blocks, so the names have numbered blocks here too (`stacking`).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from vdm_jax.convert.stacking import unstack
from vdm_jax.convert.vdm_layout import Shapes
from vdm_jax.networks.classifier import Classifier
from vdm_jax.networks.encoders import examples
from vdm_jax.networks.families import Settings
from vdm_jax.networks.multiscale import UNet


@lru_cache(maxsize=8)
def shapes(s: Settings, shape: tuple[int, ...], classes: int = 0) -> Shapes:
    """Return the shapes of all leaves of the network, with numbered blocks.

    Args:
        s: Settings of the network.
        shape: (height, width, channels) of the images.
        classes: Number of classes of a classifier; 0 for a U-Net.

    Raises:
        ValueError: As `families.check`.
    """
    net = Classifier(s, classes) if classes else UNet(s)
    z = jnp.zeros((1, *shape))
    abstract = jax.eval_shape(net.init, jax.random.key(0), z, jnp.zeros(1), examples(s.encoders, z))
    empty = {
        "/".join(path): np.broadcast_to(np.float32(0), leaf.shape)
        for path, leaf in flatten_dict(abstract["params"]).items()
    }
    return {name: leaf.shape for name, leaf in unstack(empty).items()}


def walk(s: Settings, height: int) -> Iterator[str]:
    """Yield the parts of the network in the order of evaluation, with numbered blocks.

    They are 'dense0', …, 'down0/0/res', 'down0/0/attn', …, 'shrink1/conv', …, 'mid1', 'mid_attn', 'mid2',
    'up1/0/res', …, 'norm_out', 'conv_out'.
    """
    attends, between = s.attends(height), _between(s)
    yield from descent(s, height)
    for i in reversed(range(len(s.multipliers))):
        for b in range(s.depth + 1):
            yield f"up{i}/{b}/res"
            yield from [f"up{i}/{b}/attn"] if attends[i] and s.attention_up == "block" else []
        yield from [f"up{i}/attn"] if attends[i] and s.attention_up == "level" else []
        yield from [f"norm_image{i}", f"conv_image{i}"] if s.pyramid_out == "skip" else []
        yield from [f"grow{i}/{between}"] if i else []
    yield from [] if s.pyramid_out == "skip" else ["norm_out", "conv_out"]


def descent(s: Settings, height: int) -> Iterator[str]:
    """Yield the parts up to the middle of the network, which a classifier also has."""
    attends, between = s.attends(height), _between(s)
    yield from ["frequencies"] if s.embedding == "fourier" else []
    yield from ("dense0", "dense1")
    yield from ["classes"] if s.num_classes else []
    yield from ["mapping"] if s.latent else []
    yield "conv_in"
    for i in range(len(s.multipliers)):
        if i:
            yield f"shrink{i}/{between}"
            if s.pyramid_in != "none":
                yield f"conv_pyramid{i}" if s.pyramid_in == "residual" else f"pyramid{i}"
        for b in range(s.depth):
            yield f"down{i}/{b}/res"
            yield from [f"down{i}/{b}/attn"] if attends[i] else []
    yield from ("mid1", "mid_attn", "mid2")


def _between(s: Settings) -> str:
    return "res" if s.resample == "block" else "conv"
