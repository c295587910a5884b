"""Tokenizers: CLIP's, GPT-2's as GLIDE uses it, and small ones that are trained on the captions of a run.

They agree token for token with the original implementations, which differ from each other:

* CLIP (Radford et al. 2021), and the noised CLIP of GLIDE: the text is repaired with ftfy, HTML is unescaped twice, and
  the text is converted to lower case. A start token and an end token enclose it. A text that is too long is an error,
  or is truncated before the end token. The padding is 0.
* GLIDE (Nichol et al. 2021): the text is only converted to lower case. There is no start token and no end token. A text
  that is too long is truncated. The padding is the id of the end token, and its mask is False.
* `bpe` is like CLIP, but without ftfy and HTML.
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
    """Encoded texts.

    Attributes:
        ids: Token ids, int32 [N, L].
        mask: True for tokens and False for padding, bool [N, L].
        truncated: The number of texts that were truncated.
    """

    ids: np.ndarray
    mask: np.ndarray
    truncated: int


class Tokenizer:
    """A tokenizer.

    Args:
        kind: A key of `vocabulary.KINDS`.
        merges: The pairs of tokens that are merged, in the order of their priority.
    """

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
        """The number of ids; a table of embeddings needs at least as many rows."""
        return len(self._ids)

    @property
    def start(self) -> int | None:
        """The id of the start token, or None if the kind has none."""
        return self._ids[START] if self._framed else None

    @property
    def end(self) -> int:
        """The id of the end token, which is the highest id. GLIDE pads with it."""
        return self._ids[END]

    @property
    def pad(self) -> int:
        """The id of padding. It may also be the id of a token; the mask distinguishes them."""
        return 0 if self._framed else self.end

    @property
    def digest(self) -> str:
        """A hash of the kind and the merges, 12 hexadecimal digits."""
        lines = [self.kind, *map(" ".join, self.merges)]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of texts of any length, without start token, end token and padding."""
        cleaned = [_CLEAN[self.kind](_checked(text)) for text in texts]
        found: list[list[int]] = [each.ids for each in self._model.encode_batch(cleaned, add_special_tokens=False)]
        if self.kind == "clip":
            for row, text in enumerate(cleaned):
                if START in text or END in text:
                    found[row] = self._with_special(text)
        return found

    def encode(self, texts: str | Sequence[str], length: int, *, truncate: bool = True) -> Encoded:
        """Encode texts as rows of `length` ids.

        Args:
            texts: One text or several.
            length: The length of a row, including the start and end tokens.
            truncate: Whether longer texts are truncated; an end token is kept.

        Raises:
            UserError: A text is not a string, or it is too long and `truncate` is False.
        """
        texts = [texts] if isinstance(texts, str) else texts
        ids = np.full((len(texts), length), self.pad, np.int32)
        mask = np.zeros((len(texts), length), bool)
        truncated, room = 0, length - 2 * self._framed
        if room < 1:
            raise UserError(f"a context of {length} tokens has no room for words; make it longer")
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
        """Write the tokenizer to a file that `load` reads."""
        vocabulary.write(path, self.kind, self.merges)

    def _with_special(self, text: str) -> list[int]:
        """Return the ids of a text that contains the names of special tokens.

        The original implementation of CLIP converts such a name to the special token wherever its pattern matches.
        """
        found: list[int] = []
        for piece, _ in self._model.pre_tokenizer.pre_tokenize_str(text):
            if piece in (START, END):
                found.append(self._ids[piece])
            else:
                found += [token.id for token in self._model.model.tokenize(piece)]
        return found


def load(path: str, kind: str) -> Tokenizer:
    """Load a tokenizer.

    Args:
        path: A published vocabulary file of 'clip' or 'gpt2', a file that `Tokenizer.save` wrote, or a folder with one.
        kind: A key of `vocabulary.KINDS`.

    Raises:
        UserError: The file is missing or incomplete; the sentence says where to get it.
    """
    return Tokenizer(kind, vocabulary.read(path, kind))


def train_bpe(captions: Iterable[str], size: int) -> Tokenizer:
    """Train a byte-level BPE on captions.

    Args:
        captions: The captions.
        size: The largest number of tokens, including the special tokens.
    """
    if size < _LEAST:
        raise UserError(
            f"a tokenizer of {size} tokens is too small; it needs {_LEAST}, one for each byte and two special ones"
        )
    library = _library("tokenizers")
    model = _bare("bpe", library.models.BPE())
    trainer = library.trainers.BpeTrainer(
        vocab_size=size - len(KINDS["bpe"].special), initial_alphabet=list(BYTES), show_progress=False
    )
    model.train_from_iterator(map(_CLEAN["bpe"], captions), trainer)
    merges = json.loads(model.to_str())["model"]["merges"]
    return Tokenizer("bpe", [(first, second) for first, second in merges])


def _model(kind: str, ids: dict[str, int], merges: Sequence[Merge]) -> Any:
    """Return the tokenizer of the library `tokenizers`."""
    suffix = {"end_of_word_suffix": KINDS[kind].suffix} if KINDS[kind].suffix else {}
    return _bare(kind, _library("tokenizers").models.BPE(ids, list(merges), **suffix))


def _bare(kind: str, bpe: Any) -> Any:
    library = _library("tokenizers")
    model, steps = library.Tokenizer(bpe), library.pre_tokenizers
    words = steps.Split(library.Regex(KINDS[kind].pattern), "removed", invert=True)
    model.pre_tokenizer = steps.Sequence([words, steps.ByteLevel(add_prefix_space=False, use_regex=False)])
    return model


def _library(name: str) -> Any:
    """Import a package of the extra [text]; raise UserError if it is missing."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"text needs the package {name!r}; install it with pip install 'vdm_jax[text]'") from error


def _checked(text: Any) -> str:
    if not isinstance(text, str):
        raise UserError(f"a text must be a string, not {text!r}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"the text {_short(text)!r} is not valid Unicode ({error.reason}); repair it") from error
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
