"""The caption of an example as token ids, and the identity of captions that mean the same."""

from __future__ import annotations

import dataclasses
import functools
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from vdm_jax import text as tokenizers
from vdm_jax.conditioning.base import Condition, Encode
from vdm_jax.conditioning.label import COLUMNS
from vdm_jax.errors import UserError
from vdm_jax.keys import CONDITIONS

NAME, SAME = "text", "same_caption"
PADDING = -1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Text(Condition):
    """Token ids int32 [B, context], PADDING where the caption has ended; ∅ is the empty caption.

    Attributes:
        name: Its key in `cond`.
        context: The number of positions.
        vocabulary: The number of rows of the network's table of tokens.
        kind: The tokenizer, see `text.KINDS`.
        path: The path of its vocabulary. It is read when a caption is encoded, so that a model can be built without it.
    """

    name: str = NAME
    purpose: int = CONDITIONS + 3
    context: int
    vocabulary: int
    kind: str
    path: str

    @property
    def tokenizer(self) -> tokenizers.Tokenizer:
        """The tokenizer; raise UserError if it cannot be read or has ids beyond the network's table."""
        return read_tokenizer(self.kind, self.path, self.vocabulary)

    def spec(self, size: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((size, self.context), jnp.int32)

    def of_records(self, records: Mapping[str, np.ndarray]) -> np.ndarray:
        return self.ids(list(records["caption"]))

    def ids(self, captions: Sequence[str]) -> np.ndarray:
        """Return token ids int32 [N, context]; captions that are too long are truncated."""
        encoded = self.tokenizer.encode(captions, self.context)
        return np.where(encoded.mask, encoded.ids, PADDING).astype(np.int32)

    def request(self, config: ConfigDict, count: int, known: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the captions of `sampling.caption`, which several of them, separated by '|', have in turn."""
        if self.name in known:
            return {self.name: known[self.name]}
        self.check_request(config)
        captions = captions_of(config.sampling.caption)
        return {self.name: self.ids([captions[k % len(captions)] for k in range(count)])}

    def check_request(self, config: ConfigDict) -> None:
        if not captions_of(config.sampling.get("caption", "")):
            raise UserError(
                "config.sampling.caption='' leaves the samples without a text; set it to a caption, or to several "
                "separated by '|'"
            )

    def columns(self, config: ConfigDict) -> int | None:
        count = len(captions_of(config.sampling.get("caption", "")))
        return count if 1 < count <= COLUMNS else None

    def from_user(self, given: Any, count: int, encode: Encode) -> Array:
        """Encode one caption for all images, or a sequence of [count] captions; token ids are returned as they are.

        Raises:
            UserError: The captions are missing or invalid.
        """
        if isinstance(given, np.ndarray) and given.dtype == np.int32 and given.shape == (count, self.context):
            return jnp.asarray(given)
        captions = [given] * count if isinstance(given, str) else given
        if captions is None or len(captions) != count or not all(isinstance(each, str) for each in captions):
            raise UserError(f"{self.name} must be one caption or a list of {count} captions")
        return jnp.asarray(self.ids(captions))

    def data_requirements(self) -> dict[str, Any]:
        return {"captions": True}

    @property
    def description(self) -> str:
        return "the caption"


def captions_of(given: str) -> list[str]:
    """Return the captions of `sampling.caption`, which are separated by '|'."""
    return [caption.strip() for caption in given.split("|") if caption.strip()]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SameCaption(Condition):
    """Integers [B] that are equal where captions have the same meaning: the record's scene, or a hash of the caption.

    Two different captions have the same 32-bit hash with probability 2⁻³².
    """

    name: str = SAME
    purpose: int = CONDITIONS + 4

    def spec(self, size: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((size,), jnp.int32)

    def of_records(self, records: Mapping[str, np.ndarray]) -> np.ndarray:
        if "scene" in records:
            return records["scene"].astype(np.int32)
        return np.array([zlib.crc32(text.encode()) for text in records["caption"]], np.uint32).view(np.int32)

    @property
    def chosen(self) -> bool:
        return False


@functools.lru_cache(maxsize=4)
def read_tokenizer(kind: str, path: str, vocabulary: int) -> tokenizers.Tokenizer:
    """Read a tokenizer whose ids must be below `vocabulary`.

    Raises:
        UserError: It cannot be read, or has more tokens.
    """
    found = tokenizers.load(path, kind)
    if found.vocabulary > vocabulary:
        raise UserError(
            f"the tokenizer {path!r} has {found.vocabulary:,} tokens, more than the {vocabulary:,} rows of "
            f"config.model.vocabulary; set that to {found.vocabulary} or more"
        )
    return found


def from_config(config: ConfigDict) -> Text | None:
    """Return the text condition if the config has `model.context`, else None."""
    if "context" not in config.model:
        return None
    return Text(
        context=config.model.context,
        vocabulary=config.model.vocabulary,
        kind=config.data.tokenizer,
        path=config.data.tokenizer_path,
    )
