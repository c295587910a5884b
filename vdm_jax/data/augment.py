"""The augmentations of the VDM paper and the bit that tells the network about them.

Kingma et al. 2021 train their best CIFAR-10 model on images that are flipped, rotated by a multiple
of 90° and permuted in their channels, and condition the network on whether anything was done: at
test time the bit is 0.
"""

from __future__ import annotations

import difflib

import numpy as np

from vdm_jax.errors import UserError

KINDS = ("flip", "rot90", "channels")


def augment(image: np.ndarray, rng: np.random.Generator, kinds: tuple[str, ...]) -> tuple[np.ndarray, float]:
    """Apply each of `kinds` with probability 1/2, independently, in the order of `KINDS`.

    image: [H, W, C]. flip: left to right; rot90: by 90°, 180° or 270°, equally likely; channels:
    one of the C! orders, equally likely. Returns the image and the conditioning bit: 1.0 if any was
    applied. As in the original release the bit is set by the coin, not by the pixels: the channel
    order drawn may be the identity.
    """
    applied = False
    if "flip" in kinds and rng.random() < 0.5:
        image, applied = image[:, ::-1], True
    if "rot90" in kinds and rng.random() < 0.5:
        image, applied = np.rot90(image, int(rng.integers(1, 4))), True
    if "channels" in kinds and rng.random() < 0.5:
        image, applied = image[..., rng.permutation(image.shape[-1])], True
    return np.ascontiguousarray(image), float(applied)


def check_kinds(kinds: tuple[str, ...], shape: tuple[int, ...]) -> None:
    """Raise UserError unless `kinds` are augmentations that make sense for `shape` [H, W, C]."""
    for kind in kinds:
        if kind not in KINDS:
            near = difflib.get_close_matches(kind, KINDS, n=1, cutoff=0.0)[0]
            raise UserError(
                f"data.augment has {kind!r}, which is not one of {', '.join(KINDS)}; did you mean {near!r}?"
            )
    if kinds and len(shape) != 3:
        raise UserError(f"data.augment={kinds} needs images but the data has shape {shape}; set it to ()")
    if "rot90" in kinds and shape[0] != shape[1]:
        raise UserError(f"data.augment has 'rot90' but images of shape {shape} aren't square; leave it out")
    if "channels" in kinds and shape[2] == 1:
        raise UserError(f"data.augment has 'channels' but images of shape {shape} have one; leave it out")
