"""Tables of captions in a folder of images: captions.jsonl, captions.csv, and metadata.… as on Hugging Face."""

from __future__ import annotations

import csv
import io
import json
import posixpath
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from etils import epath

from vdm_jax.data import captioning
from vdm_jax.data.captioning import TEXT, Texts
from vdm_jax.errors import UserError

NAMES = ("captions.jsonl", "captions.csv", "metadata.jsonl", "metadata.csv")
_FILE = ("file_name", "filename", "file", "image", "path")  # names of the field with the image's file name


class Table(NamedTuple):
    """The captions of images by their paths within the folder, and the names of the tables for messages."""

    texts: Mapping[str, Texts]
    where: str


def read(root: epath.Path) -> Table | None:
    """Read the tables of a folder and its subfolders, whose paths are relative to the table; None if there are none."""
    files = [file for folder in [root, *_folders(root)] if (file := _table_in(folder))]
    if not files:
        return None
    texts: dict[str, Texts] = {}
    for file in files:
        inside = str(file.parent).removeprefix(str(root)).strip("/")
        for where, row in _rows(file):
            name = next((row[key] for key in _FILE if row.get(key)), None)
            said = captioning.of_json(row)
            if name is None or said is None:
                lacks, names = ("image", _FILE) if name is None else ("caption", TEXT)
                raise UserError(f"{where} names no {lacks}; it needs {names[0]!r} or one of {', '.join(names[1:])}")
            key = posixpath.normpath(posixpath.join(inside, str(name)))
            texts[key] = texts.get(key, ()) + captioning.clean(said, where)
    return Table(texts, " or ".join(map(str, files)))


def _folders(root: epath.Path) -> list[epath.Path]:
    return sorted((each for each in root.iterdir() if each.is_dir() and not each.name.startswith(".")), key=str)


def _table_in(folder: epath.Path) -> epath.Path | None:
    return next((folder / name for name in NAMES if (folder / name).exists()), None)


def _rows(file: epath.Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield each row's name for messages, and its fields."""
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is not readable text ({error}); write it again as UTF-8") from error
    if file.name.endswith(".csv"):
        for number, row in enumerate(csv.DictReader(io.StringIO(text)), start=2):
            yield f"row {number} of {file}", row
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            content = json.loads(line)
        except ValueError as error:
            raise UserError(f"line {number} of {file} is not JSON ({error}); write one object per line") from error
        yield f"line {number} of {file}", content if isinstance(content, dict) else {}
