"""The data set `emoji`: pictures of the Noto color font, with their names as captions."""

from __future__ import annotations

import gzip
import importlib
import importlib.resources
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from PIL import Image

from vdm_jax.data import messages
from vdm_jax.data.captioning import Captioned
from vdm_jax.data.paths import SPLIT_SEED, existing, file_hash
from vdm_jax.data.sources import Arrays, Record
from vdm_jax.errors import UserError

FONT = "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"  # of Debian's fonts-noto-color-emoji
SIDE = 64
_FILE = "NotoColorEmoji.ttf"
_PRESENTATION = 0xFE0F  # of a character as an emoji; the font has no glyph for it
_REGIONS, _TAGS = range(0x1F1E6, 0x1F200), range(0xE0020, 0xE0080)  # what flags are spelled with
_PEOPLE = frozenset(("man", "woman", "men", "women", "person", "people", "and"))


class Emoji(NamedTuple):
    """An emoji: its code points and its Unicode name, such as 'waving hand: light skin tone'."""

    points: tuple[int, ...]
    name: str

    @property
    def flag(self) -> bool:
        """Whether it is the flag of a country or region."""
        return self.points[0] in _REGIONS or any(point in _TAGS for point in self.points)

    @property
    def base(self) -> str:
        """The base that all its forms share, without skin tone, hair and gender. Each flag and key is its own base."""
        if self.name.startswith(("flag:", "keycap:")):
            return self.name
        name = self.name.partition(":")[0]
        return " ".join(word for word in name.split() if word not in _PEOPLE) or name


@dataclass(frozen=True, eq=False)
class Pictures(Captioned):
    """The records {"image", "caption", "flag": 0 or 1}, and their emoji."""

    emoji: Sequence[Emoji] = ()
    falsified_by = ("flip", "rot90", "channels")  # an arrow to the left, a red heart

    def __getitem__(self, index: int) -> Record:
        return super().__getitem__(index) | {"flag": int(self.emoji[index].flag)}


def names() -> list[Emoji]:
    """Return the 3,655 emoji of Unicode 15.0 from a table of the package, which does not depend on the font."""
    with importlib.resources.files("vdm_jax.data").joinpath("emoji_names.txt.gz").open("rb") as file:
        lines = gzip.decompress(file.read()).decode().splitlines()
    rows = [line.partition(";") for line in lines if not line.startswith("#")]
    return [Emoji(tuple(int(point, 16) for point in points.split()), name) for points, _, name in rows]


def read(part: str, path: str, shape: Sequence[int] | None) -> tuple[Pictures, str]:
    """Emoji on white with their names, uint8 [S, S, 3], S of data.shape or 64, from the font at data.path or FONT.

    A tenth of the base emoji, each with all its forms, is for testing, and the rest in an order by a fixed seed.
    """
    side = int(shape[0]) if shape else SIDE
    if shape and tuple(shape) != (side, side, 3):
        raise UserError(f"data.shape={tuple(shape)} but emoji are RGB squares; set it to ({side}, {side}, 3)")
    file = existing(path or _installed(), "NotoColorEmoji.ttf")
    testing = held_out()
    chosen = [emoji for emoji in names() if (emoji.base in testing) == (part == "test")]
    strikes = _strikes(file, path)
    found = [(emoji, data) for emoji in chosen if (data := strikes(emoji.points)) is not None]
    if not found:
        raise UserError(f"{file} has none of the emoji; use NotoColorEmoji.ttf of Debian's fonts-noto-color-emoji")
    if len(found) < len(chosen):
        messages.once(f"{file} has pictures of {len(found):,} of {len(chosen):,} emoji for {part}; others are left out")
    order = range(len(found)) if part == "test" else np.random.default_rng(SPLIT_SEED).permutation(len(found)).tolist()
    emoji = [found[k][0] for k in order]
    images = np.stack([picture(found[k][1], side) for k in order])
    texts = [(each.name,) for each in emoji]
    version = f"emoji of Unicode 15.0, font {file_hash(file)}, split by base 90/10 seed {SPLIT_SEED}"
    return Pictures(Arrays(images), texts, False, emoji), version


def held_out() -> frozenset[str]:
    """Return the bases for testing: a tenth of the flags and of the others, chosen with a fixed seed."""
    rng, found, emoji = np.random.default_rng(SPLIT_SEED), list[str](), names()
    for flags in (False, True):
        bases = sorted({each.base for each in emoji if each.flag == flags})
        found += [bases[k] for k in rng.permutation(len(bases))[: len(bases) // 10]]
    return frozenset(found)


def picture(data: bytes, side: int) -> np.ndarray:
    """Decode a PNG with transparency and center it on a white square, uint8 [side, side, 3]."""
    image = Image.open(io.BytesIO(data)).convert("RGBA")
    edge = max(image.size)
    square = Image.new("RGBA", (edge, edge), (255, 255, 255, 255))
    square.alpha_composite(image, ((edge - image.width) // 2, (edge - image.height) // 2))
    filter = Image.Resampling.BOX if side <= edge else Image.Resampling.BICUBIC
    return np.asarray(square.convert("RGB").resize((side, side), filter))


def _installed() -> str:
    if not epath.Path(FONT).exists():
        raise UserError(
            f"emoji are drawn from NotoColorEmoji.ttf, which is not at {FONT}; run 'apt install "
            "fonts-noto-color-emoji' or set --config.data.path to the file"
        )
    return FONT


def _strikes(file: epath.Path, path: str) -> Any:
    """Return the function code points → PNG of their glyph, or None. It looks up ligatures and shapes no text."""
    try:
        fonts = importlib.import_module("fontTools.ttLib")
    except ImportError as error:
        raise UserError("emoji need the package fonttools; install it with pip install 'vdm_jax[text]'") from error
    try:
        font = fonts.TTFont(io.BytesIO(file.read_bytes()), lazy=True)
        if "CBDT" not in font:
            raise UserError(f"{file} has no bitmaps, as builds of COLRv1 and SVG have none; use Debian's {_FILE}")
        glyphs, ligatures = font.getBestCmap(), _ligatures(font)
        bitmaps = font["CBDT"].strikeData[-1]
    except UserError:
        raise
    except Exception as error:  # fontTools raises many kinds for a broken file
        raise UserError(f"data.path={path!r} is not a readable font ({error}); use {_FILE}") from error

    def find(points: tuple[int, ...]) -> bytes | None:
        parts = tuple(glyphs.get(point, "") for point in points if point != _PRESENTATION)
        bitmap = bitmaps.get(parts[0] if len(parts) == 1 else ligatures.get(parts))
        data: bytes | None = getattr(bitmap, "imageData", None)
        return data

    return find


def _ligatures(font: Any) -> Mapping[tuple[str, ...], str]:
    """Return the ligatures of the font: glyphs for skin tones, families and flags."""
    found: dict[tuple[str, ...], str] = {}
    for lookup in font["GSUB"].table.LookupList.Lookup:
        for table in lookup.SubTable:
            table = getattr(table, "ExtSubTable", table)
            for first, ligatures in getattr(table, "ligatures", {}).items():
                for ligature in ligatures:
                    found.setdefault((first, *ligature.Component), ligature.LigGlyph)
    return found
