"""Small data sets on disk, written in the formats that users have."""

import io
import json
import pathlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image


def _png(image: np.ndarray) -> bytes:
    """image: uint8 [H, W, C], C 1 or 3."""
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, "PNG")
    return buffer.getvalue()


def _features(shape: tuple[int, ...], labeled: bool) -> dict:
    package = "tensorflow_datasets.core.features"
    dimensions = [str(size) for size in shape]
    features = {
        "image": {
            "pythonClassName": f"{package}.image_feature.Image",
            "image": {"shape": {"dimensions": dimensions}, "dtype": "uint8"},
        }
    }
    if labeled:
        features["label"] = {
            "pythonClassName": f"{package}.class_label_feature.ClassLabel",
            "classLabel": {"numClasses": "10"},
        }
    return {
        "pythonClassName": f"{package}.features_dict.FeaturesDict",
        "featuresDict": {"features": features},
    }


def _write_records(path: pathlib.Path, images: np.ndarray, labels: np.ndarray | None) -> int:
    from array_record.python import array_record_module
    from tensorflow_datasets.proto import tf_example_pb2

    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
    for index, image in enumerate(images):
        example = tf_example_pb2.Example()
        example.features.feature["image"].bytes_list.value.append(_png(image))
        if labels is not None:
            example.features.feature["label"].int64_list.value.append(int(labels[index]))
        writer.write(example.SerializeToString())
    writer.close()
    return path.stat().st_size


@pytest.fixture
def png() -> Callable[[np.ndarray], bytes]:
    return _png


Prepare = Callable[..., pathlib.Path]


@pytest.fixture
def prepare(tmp_path: pathlib.Path) -> Prepare:
    """What `tfds.builder(builder, file_format=…).download_and_prepare()` leaves behind, made without TensorFlow.

    splits: name -> (images [N, H, W, C], labels [N] or None). Returns the folder of all data sets.
    """

    def write(builder: str, version: str, splits: dict, file_format: str = "array_record") -> pathlib.Path:
        name, _, config = builder.partition("/")
        folder = tmp_path / "tensorflow_datasets" / builder / version
        folder.mkdir(parents=True)
        infos = []
        for split, (images, labels) in splits.items():
            size = _write_records(folder / f"{name}-{split}.{file_format}-00000-of-00001", images, labels)
            infos.append({"name": split, "shardLengths": [str(len(images))], "numBytes": str(size)})
            infos[-1]["filepathTemplate"] = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
        info = {"name": name, "version": version, "fileFormat": file_format, "splits": infos}
        if config:
            info["configName"] = config
        (folder / "dataset_info.json").write_text(json.dumps(info))
        images, labels = next(iter(splits.values()))
        (folder / "features.json").write_text(json.dumps(_features(images.shape[1:], labels is not None)))
        return tmp_path / "tensorflow_datasets"

    return write
