"""The augmentations of the VDM paper and the bit that conditions the network on them.

Kingma et al. 2021 train their best CIFAR-10 model on images that are randomly flipped, rotated by a multiple of 90°,
and permuted in their channels. One bit conditions the network on whether an image was augmented. The bit is 0 at test
time.
"""

from __future__ import annotations

import difflib
from typing import NamedTuple

import numpy as np

from vdm_jax.errors import UserError

KINDS = ("flip", "rot90", "channels")
CROP = "crop"  # applied to every image: see `crop`


class Draw(NamedTuple):
    """The augmentations that are drawn for each of N images.

    Attributes:
        flip: Whether the image is flipped, bool [N].
        turns: The number of quarter turns, 0 to 3, int [N].
        channels: The order of the channels, int [N, C].
        bit: 1 if any augmentation was drawn for the image, float32 [N].
    """

    flip: np.ndarray
    turns: np.ndarray
    channels: np.ndarray
    bit: np.ndarray

    def rows(self, chosen: np.ndarray) -> Draw:
        """Return the draws for the images `chosen`."""
        return Draw(*(field[chosen] for field in self))


def draw(rng: np.random.Generator, count: int, kinds: tuple[str, ...], channels: int) -> Draw:
    """Draw each augmentation with probability 1/2 for each image, independently.

    As in the original release, the bit depends on the draws and not on the pixels: the channel order that is drawn
    may be the identity.

    Args:
        rng: The generator of random numbers.
        count: The number of images.
        kinds: A subset of 'flip' (left to right), 'rot90' (by 90°, 180° or 270°, equally likely), and 'channels' (one
            of the C! orders, equally likely).
        channels: The number of channels, C.
    """
    flip, turn, mix = (rng.random(count) < (0.5 if kind in kinds else 0.0) for kind in KINDS)
    turns = np.where(turn, rng.integers(1, 4, count), 0)
    straight = np.broadcast_to(np.arange(channels), (count, channels))
    orders = np.where(mix[:, None], rng.permuted(straight, axis=1), straight)
    return Draw(flip, turns, orders, (flip | turn | mix).astype(np.float32))


def augment(images: np.ndarray, drawn: Draw) -> np.ndarray:
    """Return a copy of images [N, H, W, C] that is flipped, then rotated, then permuted in its channels."""
    images = images.copy()
    pixels = images.view(np.dtype((np.void, images[0, 0, 0].nbytes)))[
        ..., 0
    ]  # moving all channels at once is twice as fast
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
    """Check that `kinds` are known augmentations that apply to records of `shape`.

    Raises:
        UserError: If a kind is unknown or does not apply, such as 'rot90' to images that are not square.
    """
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
        raise UserError(f"data.augment has 'channels' but images of shape {shape} have one channel; leave it out")


def check_meaning(kinds: tuple[str, ...], falsified_by: tuple[str, ...], name: str) -> None:
    """Raise UserError if one of `kinds` makes captions of the data set `name` false, as a flip does to "left of"."""
    for kind in kinds:
        if kind in falsified_by:
            raise UserError(f"data.augment has {kind!r}, which makes captions of {name} false; leave it out")
