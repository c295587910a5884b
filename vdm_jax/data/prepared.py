"""Data sets that TensorFlow Datasets prepared as array_record files, read without TensorFlow.

Only files on disk are read: the builder is created from its own folder, so nothing is downloaded. Preparing a data set
needs TensorFlow once (`pip install 'vdm_jax[prepare]'`), on any machine.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from etils import epath

from vdm_jax.data.sources import Record, Source, first_decodable
from vdm_jax.errors import Undecodable, UserError

_FORMAT = "array_record"


@dataclass(frozen=True, eq=False)
class Prepared:
    """The images and optional labels of a TFDS data source.

    Attributes:
        records: The TFDS data source.
        name: The name for messages.
        shape: The shape that every image must have; () for any.
        all_labels: The labels that the data set can have.
        class_names: The names of the labels, if TFDS has names.
    """

    records: Any
    name: str
    shape: tuple[int, ...] = ()
    all_labels: range = range(0)
    class_names: Mapping[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Record:
        where = f"record {index} of {self.name}"
        try:
            record = self.records[index]
            kept: Record = {"image": np.asarray(record["image"])}
        except MemoryError:
            raise
        except Exception as error:  # array_record, protobuf and the decoders raise many kinds
            raise Undecodable(f"{where} can't be decoded ({_reason(error)}); prepare the data set again") from error
        if self.shape and kept["image"].shape != self.shape:
            raise Undecodable(f"{where} has shape {kept['image'].shape} but the first has {self.shape}")
        if "label" in record:
            kept["label"] = int(record["label"])
        return kept


def command(builder: str, path: str = "") -> str:
    """Return the command that prepares `builder`, such as 'cifar10', under `path` or in TFDS's default folder."""
    where = f", data_dir={path!r}" if path else ""
    call = f"tfds.builder({builder!r}, file_format={_FORMAT!r}{where}).download_and_prepare()"
    return f"pip install 'vdm_jax[prepare]' && python -c \"import tensorflow_datasets as tfds; {call}\""


def read(builder: str, split: str, path: str) -> tuple[Source, str] | None:
    """Open a split of a prepared builder.

    Args:
        builder: The name of the builder, such as 'imagenet_resized/32x32'.
        split: TFDS's name of the split.
        path: The folder of one version of the builder, or the folder that contains TFDS data sets, or '' for
            $TFDS_DATA_DIR or ~/tensorflow_datasets.

    Returns:
        The source and its version, or None if the builder is not prepared there.

    Raises:
        UserError: If the builder is prepared but unreadable.
    """
    folder = find(builder, path)
    if folder is None:
        return None
    info = _info(folder)
    formats = {info.get("fileFormat"), *info.get("alternativeFileFormats", ())}
    if _FORMAT not in formats:
        raise UserError(
            f"{folder} is prepared as {info.get('fileFormat')}, which only TensorFlow reads; "
            f"prepare it as {_FORMAT} in another folder: {command(builder, 'FOLDER')}"
        )
    if "://" in str(folder):
        raise UserError(
            f"{folder} is in a bucket, and array_record files are read from disks only; "
            "copy it to a disk and set --config.data.path to that"
        )
    import tensorflow_datasets as tfds  # takes half a second, so only if it is used

    try:
        builder_there = tfds.builder_from_directory(folder, file_format=_FORMAT)
        labels = _classes(builder_there.info.features)
        records = builder_there.as_data_source(split)
        source = Prepared(records, f"{folder}, split {split!r}", (), range(len(labels)), _named(labels))
        shape = first_decodable(lambda index: source[index]["image"].shape, len(records))
    except Exception as error:  # TFDS and array_record raise many kinds, RuntimeError among them
        reason = _reason(error.__cause__ or error)
        raise UserError(
            f"{folder} has no readable split {split!r} ({reason}); prepare it again: {command(builder)}"
        ) from error
    return replace(source, shape=shape), f"tfds:{builder}:{info['version']}"


def _classes(features: Any) -> list[str]:
    """Return the names of the labels of TFDS features (numbers if they have no names); [] without labels."""
    label = dict(features.items()).get("label")
    return list(label.names) if label is not None and getattr(label, "num_classes", None) else []


def _named(classes: list[str]) -> dict[int, str]:
    """Return the name of each label; {} if the names are only numbers."""
    numbers = [str(k) for k in range(len(classes))]
    return {} if classes == numbers else dict(enumerate(classes))


def _reason(error: BaseException) -> str:
    """Return the first line of an error's message."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def find(builder: str, path: str) -> epath.Path | None:
    """Return the folder of the newest prepared version of `builder`, or None."""
    root = epath.Path(path or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    if (root / "dataset_info.json").exists():
        return root if _full_name(_info(root)) == builder else None
    versions = root / builder
    if not versions.exists():
        return None
    folders = [folder for folder in versions.iterdir() if (folder / "dataset_info.json").exists()]
    return max(folders, key=_version, default=None)


def _version(folder: epath.Path) -> tuple[int, ...]:
    return tuple(int(part) if part.isdigit() else -1 for part in folder.name.split("."))


def _full_name(info: dict[str, Any]) -> str:
    return "/".join(filter(None, (info.get("name"), info.get("configName"))))


def _info(folder: epath.Path) -> dict[str, Any]:
    """Read dataset_info.json of a prepared builder."""
    try:
        info: dict[str, Any] = json.loads((folder / "dataset_info.json").read_text())
        info["name"], info["version"]
    except (ValueError, KeyError, OSError) as error:
        raise UserError(f"{folder}/dataset_info.json is damaged ({error}); prepare it again") from error
    return info
