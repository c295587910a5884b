"""StackedMNIST: three digits as the channels of one image; its 1,000 classes are the modes that a GAN should cover."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vdm_jax.data.named import read_idx_set
from vdm_jax.data.padding import HALVED, PADDED, pad_one
from vdm_jax.data.paths import SPLIT_SEED
from vdm_jax.data.sources import Record, Source, labels_of, trait
from vdm_jax.errors import UserError

COPIES = 2


@dataclass(frozen=True, eq=False)
class Stacked:
    """A source whose record k has the padded images of source[indices[k]] as channels and label 100 a + 10 b + c."""

    source: Source
    indices: np.ndarray  # int [M, 3]
    side: int = PADDED

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Record:
        records = [self.source[int(k)] for k in self.indices[index]]
        image = np.concatenate([record["image"] for record in records], axis=-1)
        label = sum(record["label"] * 10**place for record, place in zip(records, (2, 1, 0), strict=True))
        return {"image": pad_one(image, self.side), "label": label}

    @property
    def labels(self) -> np.ndarray | None:
        """All labels, int [M], if those of the digits are known without reading the records."""
        single = labels_of(self.source)
        return None if single is None else single[self.indices].astype(np.int64) @ np.array([100, 10, 1])


def stacked_mnist(part: str, path: str, shape: Sequence[int] | None) -> tuple[Stacked, str]:
    """Read stacked_mnist as uint8 [32, 32, 3], or as averages of 2 × 2 pixels, [16, 16, 3].

    Every digit occurs twice in each channel, by permutations with a fixed seed: 120,000 records from 60,000 digits.
    These are the sizes of the data set released with DDGAN, whose permutations have no fixed seed.

    Args:
        part: 'train' or 'test'.
        path: data.path, as for `mnist`.
        shape: data.shape; (16, 16, 3) averages the images.

    Raises:
        UserError: If mnist or its labels are missing.
    """
    half = shape is not None and tuple(shape) == (HALVED, HALVED, 3)
    digits, version = read_idx_set(part, path, None, name="mnist")
    if "label" not in digits[0]:
        why = trait(digits, "no_labels", "") or f"data.path={path!r} lacks them"
        raise UserError(f"stacked_mnist needs the labels of mnist ({why}); download them too")
    rng = np.random.default_rng([SPLIT_SEED, int(part == "test")])
    column = lambda: np.concatenate([rng.permutation(len(digits)) for _ in range(COPIES)])
    indices = np.stack([column() for _ in range(3)], axis=-1)
    return Stacked(digits, indices, HALVED if half else PADDED), f"stacked{', halved' * half}, seed 0, of {version}"
