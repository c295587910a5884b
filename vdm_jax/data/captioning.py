"""Captions of all sources: checking, and drawing one of several.

A record has "caption", and where any image of its data set has several also "captions", a tuple with all of them.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vdm_jax.data.sources import Arrays, Record, Source, first_decodable, labels_of, trait
from vdm_jax.errors import UserError

Texts = tuple[str, ...]
TEXT = ("captions", "caption", "text")  # names of fields with captions, preferred first


@dataclass(frozen=True, eq=False)
class Captioned:
    """The records of `source` with captions; texts: one or more captions of each record."""

    source: Source
    texts: Sequence[Texts]
    several: bool = False  # whether any record has more than one

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Record:
        texts = self.texts[index]
        return self.source[index] | {"caption": texts[0]} | ({"captions": texts} if self.several else {})

    @property
    def labels(self) -> np.ndarray | None:
        """The labels, if they are known without reading the records."""
        return labels_of(self.source)


def captioned(source: Source, texts: Sequence[Texts]) -> Captioned:
    """Add captions to the records of a source; texts: the captions of each record, in order."""
    if len(source) != len(texts):
        raise ValueError(f"{len(texts)} records of text for {len(source)} images")
    return Captioned(source, texts, any(len(each) > 1 for each in texts))


def texts_of(source: Source, indices: Sequence[int]) -> list[Texts]:
    """Return all captions of some records; images are decoded only if the source does not know its captions."""
    known = trait(source, "texts", None)
    if known is not None:
        return [known[index] for index in indices if index < len(known)]
    records = [source[index] for index in indices]
    return [record.get("captions", (record["caption"],)) for record in records]


def has_captions(source: Source) -> bool:
    """Return whether the records have captions."""
    if trait(source, "texts", None) is not None:
        return True
    return not isinstance(source, Arrays) and "caption" in first_decodable(source.__getitem__, len(source))


def draw(texts: Sequence[Texts], uniform: np.ndarray) -> np.ndarray:
    """Choose one caption of each record uniformly, objects [b], by numbers in [0, 1), [b]."""
    chosen = np.empty(len(texts), object)
    for row, (several, place) in enumerate(zip(texts, uniform.tolist(), strict=True)):
        chosen[row] = several[int(place * len(several))]
    return chosen


def clean(texts: Sequence[str], where: str) -> Texts:
    """Strip captions; raise UserError, which names `where`, if there is none or one is empty."""
    found = tuple(text.strip() for text in texts)
    if not found or not all(found):
        raise UserError(f"{where} is an empty caption; write one, or leave the image out")
    return found


def digest(texts: Sequence[Texts]) -> str:
    """Return a checksum of all captions in order, 8 hexadecimal digits."""
    found = 0
    for several in texts:
        found = zlib.crc32("\n".join([*several, ""]).encode(), found)
    return f"{found:08x}"


def of_json(content: Any) -> list[str] | None:
    """Return the captions of a JSON object or a row of a table, which are a string or a list; None if it has none."""
    if not isinstance(content, Mapping):
        return None
    value = next((content[key] for key in TEXT if content.get(key) is not None), None)
    if isinstance(value, list):
        return [str(each) for each in value]
    return None if value is None else [str(value)]
