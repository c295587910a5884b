"""Three records as the channels of one image: StackedMNIST, whose 1,000 classes are modes for a GAN to cover."""

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
    """Record k: the images of source[indices[k]] as channels, by `pad`; label 100 a + 10 b + c."""

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
        """int [M], where those of the digits are known without reading these."""
        single = labels_of(self.source)
        return None if single is None else single[self.indices].astype(np.int64) @ np.array([100, 10, 1])


def stacked_mnist(part: str, path: str, shape: Sequence[int] | None) -> tuple[Stacked, str]:
    """stacked_mnist: uint8 [32, 32, 3], or [16, 16, 3] of averages, of the digits that lie at `path` as `mnist`'s do.

    Every digit is twice in each channel, by permutations of a fixed seed: 120,000 records of 60,000 digits (the sizes
    of the dataset class released with DDGAN, whose permutations have no seed).
    """
    half = shape is not None and tuple(shape) == (HALVED, HALVED, 3)
    digits, version = read_idx_set(part, path, None, name="mnist")
    if "label" not in digits[0]:
        why = trait(digits, "no_labels", "") or f"data.path={path!r} lacks them"
        raise UserError(f"stacked_mnist needs the labels of mnist ({why}); fetch them too")
    rng = np.random.default_rng([SPLIT_SEED, int(part == "test")])
    column = lambda: np.concatenate([rng.permutation(len(digits)) for _ in range(COPIES)])
    indices = np.stack([column() for _ in range(3)], axis=-1)
    return Stacked(digits, indices, HALVED if half else PADDED), f"stacked{', halved' * half}, seed 0, of {version}"
