"""Compare the data of a resumed run with the data that it started with."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from vdm_jax.data.sources import labels_of, trait

_NAMED = re.compile(
    r"\b(npz|folder):.*?:(?=[0-9a-f]{12}\b)"
)  # the name of a file or folder, which does not identify its contents


def identity(source: Any, name: str, version: str) -> dict[str, Any]:
    """Return the JSON-compatible description of a data set that a resumed run compares with its own.

    It does not depend on the folder: the same files in another place are the same data.
    """
    kept = {"name": name, "version": _NAMED.sub(r"\1:", version), "examples": len(source)}
    listed: Mapping[str, Any] = trait(source, "listed", {})
    if listed:
        kept["listed"] = dict(listed)
    names: Mapping[int, str] = trait(source, "class_names", {})
    if names:
        kept["classes"] = [names[label] for label in sorted(names)]
    if "idx:" in version and (labels := labels_of(source)) is not None:  # a separate file, which `version` omits
        kept["labels"] = f"{zlib.crc32(labels.astype(np.int64).tobytes()):08x}"
    return kept


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Describe what changed between two `identity` records; '' if nothing changed.

    Earlier versions recorded fewer entries; only the entries that such a record has are compared.
    """
    if dict(before) == dict(now):
        return ""
    if before.get("name") != now.get("name"):
        return f"its name is {now.get('name')} and was {before.get('name')}"
    was, files = before.get("listed"), now.get("listed")
    if files and not was and _NAMED.match(str(before.get("version"))):
        return _of_counts(before, now)  # earlier versions of a folder were hashes of names
    if files and was and was != files:
        return _of_files(was, files)
    if _NAMED.sub(r"\1:", str(before.get("version"))) != now.get("version"):
        if before.get("classes") != now.get("classes"):
            return f"its class folders are {now.get('classes')} and were {before.get('classes')}"
        return f"its contents changed{', with the same file names and sizes' if files else ''}"
    if before.get("labels", now.get("labels")) != now.get("labels"):
        return "its labels changed"
    return _of_counts(before, now)


def _of_counts(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Describe a changed number of examples; '' if it is the same."""
    was, is_now = before.get("examples"), now.get("examples")
    return "" if was == is_now else f"it has {is_now} examples and had {was}"


def _of_files(was: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Describe the difference between two different values of `Files.listed`."""
    more = now["files"] - was["files"]
    weight = f"{was['bytes']:,} → {now['bytes']:,} bytes"
    if more:
        word = "added" if more > 0 else "removed"
        files = "1 image file was" if abs(more) == 1 else f"{abs(more)} image files were"
        return f"{files} {word} ({was['files']} → {now['files']}; {weight})"
    if was["names"] != now["names"]:
        return f"the same number of image files have different names ({weight})"
    return f"image files with the same names have different contents ({weight})"
