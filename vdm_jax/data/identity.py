"""Whether the data of a resumed run is the data it began with, and what changed if not."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from vdm_jax.data.sources import labels_of, trait

_NAMED = re.compile(r"\b(npz|folder):.*?:(?=[0-9a-f]{12}\b)")  # the name of a file or folder, which says nothing


def identity(source: Any, name: str, version: str) -> dict[str, Any]:
    """What a resumed run must find again, as JSON keeps it: the same files elsewhere are the same data."""
    found = {"name": name, "version": _NAMED.sub(r"\1:", version), "examples": len(source)}
    listed: Mapping[str, Any] = trait(source, "listed", {})
    if listed:
        found["listed"] = dict(listed)
    names: Mapping[int, str] = trait(source, "class_names", {})
    if names:
        found["classes"] = [names[label] for label in sorted(names)]
    if "idx:" in version and (labels := labels_of(source)) is not None:  # a file beside that of the images
        found["labels"] = f"{zlib.crc32(labels.astype(np.int64).tobytes()):08x}"
    return found


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What changed from one `identity` to another, in words; '' if nothing did.

    Of records of earlier versions, which say less, what they say is compared.
    """
    if dict(before) == dict(now):
        return ""
    if before.get("name") != now.get("name"):
        return f"it is {now.get('name')} and was {before.get('name')}"
    was, files = before.get("listed"), now.get("listed")
    if files and not was and _NAMED.match(str(before.get("version"))):
        return _of_counts(before, now)  # earlier versions of a folder were hashes of names
    if files and was and was != files:
        return _of_files(was, files)
    if _NAMED.sub(r"\1:", str(before.get("version"))) != now.get("version"):
        if before.get("classes") != now.get("classes"):
            return f"its class folders are {now.get('classes')} and were {before.get('classes')}"
        return f"its contents are others{', under the same file names and of the same sizes' if files else ''}"
    if before.get("labels", now.get("labels")) != now.get("labels"):
        return "its labels are others"
    return _of_counts(before, now)


def _of_counts(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    was, is_now = before.get("examples"), now.get("examples")
    return "" if was == is_now else f"it has {is_now} examples and had {was}"


def _of_files(was: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """was, now: `Files.listed` of two different folders."""
    more = now["files"] - was["files"]
    weight = f"{was['bytes']:,} → {now['bytes']:,} bytes"
    if more:
        word = "added" if more > 0 else "removed"
        files = "1 image file was" if abs(more) == 1 else f"{abs(more)} image files were"
        return f"{files} {word} ({was['files']} → {now['files']}; {weight})"
    if was["names"] != now["names"]:
        return f"as many image files have other names ({weight})"
    return f"image files of the same names have other contents ({weight})"
