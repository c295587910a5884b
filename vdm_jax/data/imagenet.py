"""The two downsampled ImageNets. They share a name in many tables and are different data.

OLD: van den Oord et al. 2016 ("Pixel Recurrent Neural Networks"), the archives train_32x32.tar,
valid_32x32.tar and their 64x64 twins; 49,999 unlabelled validation images. DDPM, Improved DDPM and
VDM report on it. TFDS calls it `downsampled_imagenet` and can no longer download it.

NEW: Chrabaszcz et al. 2017, box-resized, TFDS `imagenet_resized`; 50,000 labelled validation
images. It is easier: the same method gets 3.69 bits/dim on OLD and 3.43 on NEW at 32x32. Numbers of
one say nothing about the other.

ImageNet's validation images are our 'test'. Each set checks its own counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from vdm_jax.data import prepared
from vdm_jax.data.listing import scan
from vdm_jax.data.paths import SPLIT_SEED, existing
from vdm_jax.data.sources import Source, open_archive, open_files, take
from vdm_jax.errors import UserError

OLD_COUNTS = {"train": 1_281_149, "test": 49_999}
NEW_COUNTS = {"train": 1_281_167, "test": 50_000}
_TFDS_SPLITS = {"train": "train", "test": "validation"}
_ARCHIVE_STEMS = {"train": "train", "test": "valid"}


def read_old(part: str, path: str, shape: Sequence[int] | None, *, size: int) -> tuple[Source, str]:
    """OLD at `size` 32 or 64: uint8 [size, size, 3], no labels.

    path: the folder with the two archives, or with the folders they unpack to, or with the data set
    as an earlier TFDS prepared it. Archives are read in place.
    """
    name = f"{_ARCHIVE_STEMS[part]}_{size}x{size}"
    found = _old_files(part, path, name) if path else None
    found = found or prepared.read(f"downsampled_imagenet/{size}x{size}", _TFDS_SPLITS[part], path)
    if found is None:
        raise UserError(
            f"the original downsampled ImageNet (imagenet{size}) is not in data.path={path!r}: get "
            f"train_{size}x{size}.tar and valid_{size}x{size}.tar (van den Oord et al. 2016, once "
            "at image-net.org/small), put both in one folder, unpacked or not, and set "
            "--config.data.path to it; "
            f"the newer, easier data set that TFDS can fetch is imagenet{size}_resized"
        )
    source, version = found
    check_count(source, part, OLD_COUNTS, f"imagenet{size} (OLD)", f"{name}.tar, whole and only it")
    return source, f"OLD downsampled_imagenet {size}x{size} (van den Oord 2016), {version}"


def _old_files(part: str, path: str, name: str) -> tuple[Source, str] | None:
    folder = existing(path, f"the folder that holds {name}.tar")
    archive, unpacked = folder / f"{name}.tar", folder / name
    source: Source
    if archive.exists():
        source, version = open_archive(archive, 3), archive.name
    elif unpacked.exists() and (files := scan(unpacked).images):
        source, version = open_files([f"{unpacked}/{file.name}" for file in files], 3), f"folder {name}"
    else:
        return None
    if part == "train":  # file names may follow classes; the last ones are the tuning images
        source = take(source, np.random.default_rng(SPLIT_SEED).permutation(len(source)))
    return source, version


def read_new(part: str, path: str, shape: Sequence[int] | None, *, size: int) -> tuple[Source, str]:
    """NEW at `size` 32 or 64: uint8 [size, size, 3] with labels, from TFDS."""
    builder = f"imagenet_resized/{size}x{size}"
    if path:
        existing(path, "the folder that holds TFDS data sets")
    found = prepared.read(builder, _TFDS_SPLITS[part], path)
    if found is None:
        raise UserError(
            f"imagenet{size}_resized is not in data.path={path!r}; prepare it with {prepared.command(builder, path)}"
        )
    source, version = found
    check_count(source, part, NEW_COUNTS, f"imagenet{size}_resized (NEW)", f"{builder}, prepared whole")
    return source, f"NEW imagenet_resized {size}x{size} (Chrabaszcz 2017), {version}"


def check_count(source: Source, part: str, counts: Mapping[str, int], name: str, what: str) -> None:
    """Raise UserError unless `source` has exactly the images its data set has."""
    if len(source) != counts[part]:
        raise UserError(
            f"the {part} split of {name} has {counts[part]:,} images but {len(source):,} were found "
            f"in data.path; it must be {what}"
        )
