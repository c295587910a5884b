"""The augmentations of the VDM paper and the bit that tells the network about them.

Kingma et al. 2021 train their best CIFAR-10 model on images that are flipped, rotated by a multiple
of 90° and permuted in their channels, and condition the network on whether anything was done: at
test time the bit is 0.
"""

from __future__ import annotations

import difflib
from typing import NamedTuple

import numpy as np

from vdm_jax.errors import UserError

KINDS = ("flip", "rot90", "channels")
CROP = "crop"  # no coin decides on it: see `crop`


class Draw(NamedTuple):
    """What is done to each of N images. flip: bool [N]; turns: quarter turns, 0 to 3, [N]; channels:
    their order, [N, C]; bit: float32 [N], 1 if any coin said so."""

    flip: np.ndarray
    turns: np.ndarray
    channels: np.ndarray
    bit: np.ndarray

    def rows(self, chosen: np.ndarray) -> Draw:
        """What is done to some of them."""
        return Draw(*(field[chosen] for field in self))


def draw(rng: np.random.Generator, count: int, kinds: tuple[str, ...], channels: int) -> Draw:
    """Each of `kinds` with probability 1/2 for each of `count` images, independently.

    flip: left to right; rot90: by 90°, 180° or 270°, equally likely; channels: one of the C! orders,
    equally likely. As in the original release the bit is set by the coin, not by the pixels: the
    channel order drawn may be the identity.
    """
    flip, turn, mix = (rng.random(count) < (0.5 if kind in kinds else 0.0) for kind in KINDS)
    turns = np.where(turn, rng.integers(1, 4, count), 0)
    straight = np.broadcast_to(np.arange(channels), (count, channels))
    orders = np.where(mix[:, None], rng.permuted(straight, axis=1), straight)
    return Draw(flip, turns, orders, (flip | turn | mix).astype(np.float32))


def augment(images: np.ndarray, drawn: Draw) -> np.ndarray:
    """Flip, then rotate, then permute the channels of images [N, H, W, C]; the images are left as they are."""
    images = images.copy()
    pixels = images.view(np.dtype((np.void, images[0, 0, 0].nbytes)))[..., 0]  # moved whole: twice as fast
    pixels[drawn.flip] = pixels[drawn.flip][:, :, ::-1]
    for turns in np.unique(drawn.turns[drawn.turns > 0]):
        chosen = drawn.turns == turns
        pixels[chosen] = np.rot90(pixels[chosen], turns, axes=(1, 2))
    for order in np.unique(drawn.channels, axis=0):
        if (order != np.arange(len(order))).any():
            chosen = (drawn.channels == order).all(axis=1)
            images[chosen] = images[chosen][..., order]
    return images


def check_kinds(kinds: tuple[str, ...], shape: tuple[int, ...]) -> None:
    """Raise UserError unless `kinds` are augmentations that make sense for `shape` [H, W, C]."""
    for kind in kinds:
        if kind not in (*KINDS, CROP):
            near = difflib.get_close_matches(kind, (*KINDS, CROP), n=1, cutoff=0.0)[0]
            raise UserError(
                f"data.augment has {kind!r}, which is not one of {', '.join((*KINDS, CROP))}; did you mean {near!r}?"
            )
    if kinds and len(shape) != 3:
        raise UserError(f"data.augment={kinds} needs images but the data has shape {shape}; set it to ()")
    if "rot90" in kinds and shape[0] != shape[1]:
        raise UserError(f"data.augment has 'rot90' but images of shape {shape} aren't square; leave it out")
    if "channels" in kinds and shape[2] == 1:
        raise UserError(f"data.augment has 'channels' but images of shape {shape} have one; leave it out")


def check_meaning(kinds: tuple[str, ...], falsified_by: tuple[str, ...], name: str) -> None:
    """Raise UserError if one of `kinds` makes captions of the data set `name` false, as a flip does to "left of"."""
    for kind in kinds:
        if kind in falsified_by:
            raise UserError(f"data.augment has {kind!r}, which makes captions of {name} false; leave it out")
