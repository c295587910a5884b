"""Emoji: which names there are, how they are split, and that the glyph of each sequence is found without shaping.

The font is made here, of a few glyphs; VDM_JAX_EMOJI_FONT says the path of NotoColorEmoji.ttf where that is at hand.
"""

import io
import os
import pathlib
import sys

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.ttLib import newTable
from fontTools.ttLib.tables.BitmapGlyphMetrics import SmallGlyphMetrics
from fontTools.ttLib.tables.C_B_D_T_ import cbdt_bitmap_format_17
from fontTools.ttLib.tables.E_B_L_C_ import BitmapSizeTable, SbitLineMetrics, Strike, eblc_index_sub_table_1
from PIL import Image

from vdm_jax import data
from vdm_jax.data import emoji
from vdm_jax.data.emoji import Emoji
from vdm_jax.errors import UserError

GLYPHS = {  # and their colors
    "wave": (250, 200, 0, 255),
    "wave_dark": (90, 60, 40, 255),
    "grin": (255, 220, 0, 255),
    "heart": (220, 0, 0, 128),
    "france": (0, 0, 200, 255),
}
FEATURES = """feature ccmp {
    sub uni1F44B uni1F3FF by wave_dark;
    sub uni1F1EB uni1F1F7 by france;
} ccmp;"""
BARE = {"uni1F44B": 0x1F44B, "uni1F3FF": 0x1F3FF, "uni1F1EB": 0x1F1EB, "uni1F1F7": 0x1F1F7}


def _png(color):
    buffer = io.BytesIO()
    Image.new("RGBA", (8, 4), color).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def font(tmp_path_factory):
    """A bitmap font of five emoji on its own."""
    pictured = {"uni1F44B": "wave", "wave_dark": "wave_dark", "grin": "grin", "heart": "heart", "france": "france"}
    order = [".notdef", *BARE, "grin", "heart", "wave_dark", "france"]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(order)
    builder.setupCharacterMap({point: name for name, point in BARE.items()} | {0x1F600: "grin", 0x2764: "heart"})
    builder.setupHorizontalMetrics(dict.fromkeys(order, (1000, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Test"})
    builder.setupOS2()
    builder.setupPost()
    builder.addOpenTypeFeatures(FEATURES)
    _add_bitmaps(builder.font, {name: _png(GLYPHS[key]) for name, key in pictured.items()})
    path = tmp_path_factory.mktemp("font") / "NotoColorEmoji.ttf"
    builder.save(path)
    return path


def _add_bitmaps(font, bitmaps):
    """Tables CBDT and CBLC with one strike of PNG files."""
    named = {}
    for name, png in bitmaps.items():
        bitmap = cbdt_bitmap_format_17(b"", font)
        bitmap.metrics = SmallGlyphMetrics()
        for field in ("height", "width", "BearingX", "BearingY", "Advance"):
            setattr(bitmap.metrics, field, 4)
        bitmap.imageData = png
        named[name] = bitmap
    strike, size = Strike(), BitmapSizeTable()
    for field in ("colorRef", "flags"):
        setattr(size, field, 0)
    size.ppemX = size.ppemY = 109
    size.bitDepth = 32
    for direction in ("hori", "vert"):
        line = SbitLineMetrics()
        for field in (
            "ascender", "descender", "widthMax", "caretSlopeNumerator", "caretSlopeDenominator", "caretOffset",
            "minOriginSB", "minAdvanceSB", "maxBeforeBL", "minAfterBL", "pad1", "pad2",
        ):  # fmt: skip
            setattr(line, field, 0)
        setattr(size, direction, line)
    strike.bitmapSizeTable = size
    for name in sorted(bitmaps, key=font.getGlyphID):
        index = eblc_index_sub_table_1(b"", font)
        index.names, index.indexFormat, index.imageFormat = [name], 1, 17
        strike.indexSubTables.append(index)
    font["CBDT"], font["CBLC"] = newTable("CBDT"), newTable("CBLC")
    font["CBDT"].version = font["CBLC"].version = 3.0
    font["CBDT"].strikeData, font["CBLC"].strikes = [named], [strike]


# ---------------------------------------------------------------- names and splits


def test_the_names_are_those_of_unicode_15():
    names = emoji.names()
    assert len(names) == len({each.points for each in names}) == len({each.name for each in names}) == 3655
    assert names[0] == Emoji((0x1F600,), "grinning face") and sum(each.flag for each in names) == 261
    assert Emoji((0x1F1EB, 0x1F1F7), "flag: France") in names
    assert not next(each for each in names if each.name == "black flag").flag


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("waving hand: light skin tone", "waving hand"),
        ("woman astronaut: dark skin tone", "astronaut"),
        ("people holding hands", "holding hands"),
        ("woman and man holding hands: light skin tone", "holding hands"),
        ("man: red hair", "man"),
        ("flag: France", "flag: France"),
        ("keycap: 1", "keycap: 1"),
        ("woman’s hat", "woman’s hat"),
    ],
)
def test_all_forms_of_an_emoji_have_one_base(name, base):
    assert Emoji((1,), name).base == base


def test_a_tenth_of_the_bases_is_held_out_and_of_the_flags_too():
    held, names = emoji.held_out(), emoji.names()
    bases, flags = {each.base for each in names}, {each.base for each in names if each.flag}
    assert (len(held), len(held & flags)) == (len(bases - flags) // 10 + len(flags) // 10, 26) and held < bases


# ---------------------------------------------------------------- pictures


def test_sequences_are_glyphs_of_the_font(font):
    source = data.load("emoji", "train", path=str(font), shape=(8, 8, 3)).source
    found = {record["caption"]: record for record in map(source.__getitem__, range(len(source)))}
    expected = {
        "waving hand": "wave",
        "waving hand: dark skin tone": "wave_dark",
        "grinning face": "grin",
        "flag: France": "france",
        "red heart": "heart",  # its sequence has a variation selector, which fonts lack
    }
    assert set(found) == set(expected)
    for name, glyph in expected.items():
        color = np.array(GLYPHS[glyph])
        share = color[3] / 255
        np.testing.assert_allclose(found[name]["image"][4, 4], 255 + (color[:3] - 255) * share, atol=1)
        np.testing.assert_array_equal(found[name]["image"][[0, 1, 6, 7]], 255)  # 8 × 4 in the middle of a square
        assert found[name]["flag"] == (name == "flag: France")


def test_transparent_pixels_lie_on_white():
    found = emoji.picture(_png((220, 0, 0, 128)), 8)
    np.testing.assert_allclose(found[4, 4], 255 + (np.array([220, 0, 0]) - 255) * 128 / 255, atol=1)
    assert emoji.picture(_png((0, 0, 0, 255)), 4)[:, 0].tolist() == [[255] * 3, [0] * 3, [0] * 3, [255] * 3]


@pytest.mark.parametrize("kind", ["flip", "rot90", "channels"])
def test_emoji_are_not_flipped(font, kind):
    with pytest.raises(UserError, match=f"data.augment has '{kind}', which makes captions of emoji false"):
        data.train_iterator(data.load("emoji", "train", path=str(font)), seed=0, batch_size=1, augment=(kind,))


def test_what_is_no_bitmap_font_is_refused(font, tmp_path, monkeypatch):
    (tmp_path / "a.ttf").write_bytes(b"no font")
    with pytest.raises(UserError, match=r"a\.ttf' is not a readable font .*; use NotoColorEmoji\.ttf"):
        data.load("emoji", "train", path=str(tmp_path / "a.ttf"))
    (tmp_path / "b.ttf").write_bytes(font.read_bytes()[:400])
    with pytest.raises(UserError, match=r"b\.ttf"):
        data.load("emoji", "train", path=str(tmp_path / "b.ttf"))
    matplotlib = pytest.importorskip("matplotlib")
    plain = pathlib.Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"
    with pytest.raises(UserError, match=r"DejaVuSans\.ttf has no bitmaps"):
        data.load("emoji", "train", path=str(plain))
    monkeypatch.setattr(emoji, "FONT", str(tmp_path / "none.ttf"))
    with pytest.raises(UserError, match="run 'apt install fonts-noto-color-emoji' or set"):
        data.load("emoji", "train")
    with pytest.raises(UserError, match=r"emoji are RGB squares; set it to \(8, 8, 3\)"):
        data.load("emoji", "train", path=str(font), shape=(8, 4, 3))


def test_a_missing_package_is_named(font, monkeypatch):
    monkeypatch.setitem(sys.modules, "fontTools.ttLib", None)
    with pytest.raises(UserError, match=r"emoji need the package fonttools; .* 'vdm_jax\[text\]'"):
        data.load("emoji", "train", path=str(font))


def test_debians_font_has_all_emoji():
    path = os.environ.get("VDM_JAX_EMOJI_FONT", emoji.FONT)
    if not os.path.exists(path):
        pytest.skip("set VDM_JAX_EMOJI_FONT to NotoColorEmoji.ttf of Debian's fonts-noto-color-emoji")
    train, test = (data.load("emoji", split, path=path) for split in ("train", "test"))
    assert (len(train.source), len(test.source), train.shape) == (3320, 335, (64, 64, 3))
    data.check(train, (64, 64, 3), 256)
    bases = [{each.base for each in part.source.emoji} for part in (train, test)]
    assert not bases[0] & bases[1]
    heart = next(r for r in map(train.source.__getitem__, range(3320)) if r["caption"] == "green heart")
    red, green, blue = heart["image"][28, 32].astype(int)
    assert green > red + 40 and green > blue + 40
