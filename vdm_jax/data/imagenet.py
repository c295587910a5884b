"""The two downsampled ImageNets, which share a name in many tables but are different data.

OLD is the data set of van den Oord et al. 2016 ("Pixel Recurrent Neural Networks"): the archives train_32x32.tar and
valid_32x32.tar and the same for 64x64. It has 49,999 unlabeled validation images. DDPM, Improved DDPM, and VDM report
results on it. TFDS names it `downsampled_imagenet` and can no longer download it.

NEW is the data set of Chrabaszcz et al. 2017, resized with a box filter, `imagenet_resized` in TFDS. It has 50,000
labeled validation images. It is easier: the same method gets 3.69 bits/dim on OLD and 3.43 on NEW at 32x32. Results on
the two are not comparable.

ImageNet's validation images are the split 'test'. Each reader checks the number of images.
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
    """Read OLD as uint8 [size, size, 3] without labels.

    Args:
        part: 'train' or 'test'.
        path: The folder that has the two archives, the folders unpacked from them, or the data set as an earlier TFDS
            prepared it. Archives are read in place.
        shape: Ignored.
        size: 32 or 64.

    Raises:
        UserError: If the data set is missing or has another number of images.
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
            f"the newer, easier data set that TFDS can download is imagenet{size}_resized"
        )
    source, version = found
    check_count(source, part, OLD_COUNTS, f"imagenet{size} (OLD)", f"exactly the images of {name}.tar")
    return source, f"OLD downsampled_imagenet {size}x{size} (van den Oord 2016), {version}"


def _old_files(part: str, path: str, name: str) -> tuple[Source, str] | None:
    """Open the archive `name` or the folder unpacked from it; None if neither is there."""
    folder = existing(path, f"the folder that holds {name}.tar")
    archive, unpacked = folder / f"{name}.tar", folder / name
    source: Source
    if archive.exists():
        source, version = open_archive(archive, 3), archive.name
    elif unpacked.exists() and (files := scan(unpacked).images):
        source, version = open_files([f"{unpacked}/{file.name}" for file in files], 3), f"folder {name}"
    else:
        return None
    if part == "train":  # file names may follow classes, and the last images are for tuning
        source = take(source, np.random.default_rng(SPLIT_SEED).permutation(len(source)))
    return source, version


def read_new(part: str, path: str, shape: Sequence[int] | None, *, size: int) -> tuple[Source, str]:
    """Read NEW, prepared by TFDS, as uint8 [size, size, 3] with labels.

    Args:
        part: 'train' or 'test'.
        path: The folder that contains TFDS data sets; '' for TFDS's default folder.
        shape: Ignored.
        size: 32 or 64.

    Raises:
        UserError: If the data set is missing or has another number of images.
    """
    builder = f"imagenet_resized/{size}x{size}"
    if path:
        existing(path, "the folder that contains TFDS data sets")
    found = prepared.read(builder, _TFDS_SPLITS[part], path)
    if found is None:
        raise UserError(
            f"imagenet{size}_resized is not in data.path={path!r}; prepare it with {prepared.command(builder, path)}"
        )
    source, version = found
    check_count(source, part, NEW_COUNTS, f"imagenet{size}_resized (NEW)", f"{builder}, completely prepared")
    return source, f"NEW imagenet_resized {size}x{size} (Chrabaszcz 2017), {version}"


def check_count(source: Source, part: str, counts: Mapping[str, int], name: str, what: str) -> None:
    """Check that `source` has as many images as its data set.

    Raises:
        UserError: If the number differs.
    """
    if len(source) != counts[part]:
        raise UserError(
            f"the {part} split of {name} has {counts[part]:,} images but data.path has "
            f"{len(source):,}; it must have {what}"
        )
