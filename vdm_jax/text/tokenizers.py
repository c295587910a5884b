"""Tokenizers: CLIP's, GPT-2's as GLIDE uses it, and small ones that are trained on the captions of a run.

They agree token for token with their originals, whose differences are kept:

* CLIP (Radford et al. 2021, and the CLIP trained on noised images that GLIDE brings) repairs the text with ftfy,
  unescapes HTML twice, lower-cases, drops white space, and puts a start and an end around; what is too long is an error
  or is cut before the end; 0 is the padding.
* GLIDE (Nichol et al. 2022) lower-cases and does nothing else; it has neither start nor end, cuts what is too long, and
  pads with the end, whose mask is False.
* `bpe` is like CLIP, without ftfy and HTML.
"""

from __future__ import annotations

import hashlib
import html
import importlib
import json
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from vdm_jax.errors import UserError
from vdm_jax.text import vocabulary
from vdm_jax.text.vocabulary import BYTES, END, KINDS, START, Merge

_LEAST = len(BYTES) + 2  # rows of a trained table


class Encoded(NamedTuple):
    """ids: int32 [N, L]; mask: bool [N, L], True for tokens and False for padding; truncated: texts that were cut."""

    ids: np.ndarray
    mask: np.ndarray
    truncated: int


class Tokenizer:
    """Text to ids. kind: of vocabulary.KINDS; merges: pairs of tokens, first merged first."""

    def __init__(self, kind: str, merges: Sequence[Merge]):
        self.kind, self.merges = kind, tuple(merges)
        self._ids = vocabulary.table(kind, self.merges)
        self._model = _model(kind, self._ids, self.merges)
        self._framed = START in KINDS[kind].special

    def __repr__(self) -> str:
        return f"Tokenizer({self.kind!r}, {self.vocabulary:,} tokens, {self.digest})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Tokenizer, (self.kind, self.merges)

    @property
    def vocabulary(self) -> int:
        """How many ids there are; a table of embeddings needs so many rows or more."""
        return len(self._ids)

    @property
    def start(self) -> int | None:
        """The id before each text, if there is one."""
        return self._ids[START] if self._framed else None

    @property
    def end(self) -> int:
        """The id of the end, the highest of all; GLIDE's pads with it."""
        return self._ids[END]

    @property
    def pad(self) -> int:
        """The id of padding, which may be a token's too: the mask says which it is."""
        return 0 if self._framed else self.end

    @property
    def digest(self) -> str:
        """12 hex digits of what decides on the ids."""
        lines = [self.kind, *map(" ".join, self.merges)]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of texts of any length, without start, end and padding."""
        cleaned = [_CLEAN[self.kind](_checked(text)) for text in texts]
        found: list[list[int]] = [each.ids for each in self._model.encode_batch(cleaned, add_special_tokens=False)]
        if self.kind == "clip":
            for row, text in enumerate(cleaned):
                if START in text or END in text:
                    found[row] = self._with_special(text)
        return found

    def encode(self, texts: str | Sequence[str], length: int, *, truncate: bool = True) -> Encoded:
        """Texts as rows of `length` ids. truncate: what is longer is cut, and keeps its end; else it is a UserError."""
        texts = [texts] if isinstance(texts, str) else texts
        ids = np.full((len(texts), length), self.pad, np.int32)
        mask = np.zeros((len(texts), length), bool)
        truncated, room = 0, length - 2 * self._framed
        if room < 1:
            raise UserError(f"a text of {length} tokens has no room for words; make it longer")
        for row, tokens in enumerate(self.tokens(texts)):
            if len(tokens) > room:
                truncated += 1
                if not truncate:
                    raise UserError(
                        f"the text {_short(texts[row])!r} has {len(tokens)} tokens and there is room for {room}; "
                        "shorten it"
                    )
            tokens = tokens[:room]
            if self._framed:
                tokens = [self._ids[START], *tokens, self._ids[END]]
            ids[row, : len(tokens)], mask[row, : len(tokens)] = tokens, True
        return Encoded(ids, mask, truncated)

    def save(self, path: str) -> None:
        """Write a file that `load` reads."""
        vocabulary.write(path, self.kind, self.merges)

    def _with_special(self, text: str) -> list[int]:
        """CLIP's original takes the names of its special tokens for these wherever its pattern finds them."""
        found: list[int] = []
        for piece, _ in self._model.pre_tokenizer.pre_tokenize_str(text):
            if piece in (START, END):
                found.append(self._ids[piece])
            else:
                found += [token.id for token in self._model.model.tokenize(piece)]
        return found


def load(path: str, kind: str) -> Tokenizer:
    """A tokenizer of a published vocabulary file ('clip', 'gpt2') or of one that was saved, or of a folder with either.

    Raises UserError where it is not there, with where to get it, or is not whole.
    """
    return Tokenizer(kind, vocabulary.read(path, kind))


def train_bpe(captions: Iterable[str], size: int) -> Tokenizer:
    """A byte-level BPE of at most `size` tokens, special ones included, trained on captions."""
    if size < _LEAST:
        raise UserError(f"a tokenizer of {size} tokens is too small; it needs {_LEAST}, a byte each and two more")
    library = _library("tokenizers")
    model = _bare("bpe", library.models.BPE())
    trainer = library.trainers.BpeTrainer(
        vocab_size=size - len(KINDS["bpe"].special), initial_alphabet=list(BYTES), show_progress=False
    )
    model.train_from_iterator(map(_CLEAN["bpe"], captions), trainer)
    merges = json.loads(model.to_str())["model"]["merges"]
    return Tokenizer("bpe", [(first, second) for first, second in merges])


def _model(kind: str, ids: dict[str, int], merges: Sequence[Merge]) -> Any:
    """The library's tokenizer."""
    suffix = {"end_of_word_suffix": KINDS[kind].suffix} if KINDS[kind].suffix else {}
    return _bare(kind, _library("tokenizers").models.BPE(ids, list(merges), **suffix))


def _bare(kind: str, bpe: Any) -> Any:
    library = _library("tokenizers")
    model, steps = library.Tokenizer(bpe), library.pre_tokenizers
    words = steps.Split(library.Regex(KINDS[kind].pattern), "removed", invert=True)
    model.pre_tokenizer = steps.Sequence([words, steps.ByteLevel(add_prefix_space=False, use_regex=False)])
    return model


def _library(name: str) -> Any:
    """The package of that name, of the extra [text]."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"text needs the package {name!r}; install it with pip install 'vdm_jax[text]'") from error


def _checked(text: Any) -> str:
    if not isinstance(text, str):
        raise UserError(f"text must be a string or several, not {text!r}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"the text {_short(text)!r} is no valid Unicode ({error.reason}); repair it") from error
    return text


def _clip_clean(text: str) -> str:
    text = _library("ftfy").fix_text(text)
    text = html.unescape(html.unescape(text))
    return re.sub(r"\s+", " ", text.strip()).strip().lower()


def _bpe_clean(text: str) -> str:
    return f" {' '.join(text.lower().split())}"  # the first word as those within


_CLEAN: dict[str, Callable[[str], str]] = {"clip": _clip_clean, "gpt2": str.lower, "bpe": _bpe_clean}


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:60]}…"
