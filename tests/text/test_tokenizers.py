"""Tokenizers: the ids of the originals, what differs between them, and small ones made here.

goldens/tokens.json was written by the tokenizers of openai/CLIP (as clip-anytorch 2.6.0 carries it) and of
openai/glide-text2im with ftfy 6.3.1: ids of strings, and of their merges those that make these ids, each with its
place in the vocabulary file. Fewer merges make the same tokens, since the others never apply to these strings. Where
the vocabularies are at hand, VDM_JAX_CLIP_VOCABULARY and VDM_JAX_GPT2_VOCABULARY say their paths.
"""

import gzip
import json
import os
import pathlib
import pickle
import sys

import numpy as np
import pytest

from vdm_jax import text
from vdm_jax.errors import UserError
from vdm_jax.text import vocabulary
from vdm_jax.text.tokenizers import Tokenizer

pytest.importorskip("tokenizers", reason="the extra [text] is not installed")
pytest.importorskip("ftfy", reason="the extra [text] is not installed")

GOLDENS = json.loads((pathlib.Path(__file__).parent / "goldens" / "tokens.json").read_text())
NAMES = {"clip": "clip", "gpt2": "glide"}
ALPHABET = {"clip": 512, "gpt2": 256}
START, END = 49_406, {"clip": 49_407, "gpt2": 50_256}


def _golden(kind: str) -> tuple[Tokenizer, np.ndarray]:
    """A tokenizer of the merges that matter, and what its ids are in the whole vocabulary."""
    name, first = NAMES[kind], ALPHABET[kind]
    merges = [tuple(line.split()) for line in GOLDENS[f"{name}_merges"]]
    special = [START, END["clip"]] if kind == "clip" else [END["gpt2"]]
    whole = [*range(first), *(first + place for place in GOLDENS[f"{name}_places"]), *special]
    return Tokenizer(kind, merges), np.array(whole)


# ---------------------------------------------------------------- the originals


@pytest.mark.parametrize("kind", ["clip", "gpt2"])
def test_tokens_are_those_of_the_original(kind):
    tokenizer, whole = _golden(kind)
    found = tokenizer.tokens(GOLDENS["strings"])
    assert [whole[np.array(ids, int)].tolist() for ids in found] == GOLDENS[NAMES[kind]]
    assert len(found) > 200 and max(map(len, found)) > 128


@pytest.mark.parametrize("kind", ["clip", "gpt2"])
def test_a_lost_merge_is_noticed(kind):
    tokenizer, _ = _golden(kind)
    fewer = Tokenizer(kind, tokenizer.merges[:-1])
    lengths = [[len(tokens) for tokens in each.tokens(GOLDENS["strings"])] for each in (tokenizer, fewer)]
    assert lengths[0] != lengths[1]


def test_clip_frames_texts_and_keeps_the_end_of_those_it_cuts():
    tokenizer, whole = _golden("clip")
    ids, mask, truncated = tokenizer.encode(GOLDENS["strings"], 77)
    long = 0
    for row, seen, tokens in zip(whole[ids], mask, GOLDENS["clip"], strict=True):
        kept = [START, *tokens[:75], END["clip"]]
        assert row[: len(kept)].tolist() == kept and seen.tolist() == [True] * len(kept) + [False] * (77 - len(kept))
        assert not row[len(kept) :].any()
        long += len(tokens) > 75
    assert ids.dtype == np.int32 and ids.shape == (len(GOLDENS["strings"]), 77)
    assert truncated == long >= 10


def test_clip_refuses_what_is_too_long_if_it_must_not_cut():
    tokenizer, _ = _golden("clip")
    assert tokenizer.encode("cat " * 75, 77, truncate=False).mask.all()
    with pytest.raises(UserError, match=r"the text 'cat cat .*…' has 76 tokens and there is room for 75; shorten it"):
        tokenizer.encode("cat " * 76, 77, truncate=False)


def test_glide_has_no_start_cuts_without_an_end_and_pads_with_it():
    tokenizer, whole = _golden("gpt2")
    ids, mask, truncated = tokenizer.encode(["", *GOLDENS["strings"]], 128)
    for row, seen, tokens in zip(whole[ids], mask, [[], *GOLDENS["glide"]], strict=True):
        kept = tokens[:128]
        assert row.tolist() == kept + [END["gpt2"]] * (128 - len(kept))
        assert seen.tolist() == [True] * len(kept) + [False] * (128 - len(kept))
    assert truncated == sum(len(tokens) > 128 for tokens in GOLDENS["glide"]) >= 10
    assert tokenizer.start is None and whole[tokenizer.pad] == END["gpt2"]


def test_the_originals_differ_in_what_they_clean():
    clip, gpt2 = _golden("clip")[0], _golden("gpt2")[0]
    assert clip.tokens(["&amp;amp;  CAFÉ\n"]) == clip.tokens(["& café"])  # HTML twice, white space
    assert clip.tokens(["schÃ¶n"]) == clip.tokens(["schön"])  # ftfy
    assert gpt2.tokens(["CAFÉ"]) == gpt2.tokens(["café"])
    for one, other in (("&amp;", "&"), ("a  b", "a b"), (" a", "a"), ("schÃ¶n", "schön")):
        assert gpt2.tokens([one]) != gpt2.tokens([other])
    assert clip.tokens(["<|endoftext|>"]) == [[clip.end]]  # as the original takes it
    assert clip.tokens(["!<|endoftext|>"]) != [[clip.tokens(["!"])[0][0], clip.end]]
    assert len(gpt2.tokens(["<|endoftext|>"])[0]) > 1


@pytest.mark.parametrize("kind", ["clip", "gpt2"])
def test_published_vocabularies_make_these_tokens(kind):
    path = os.environ.get(f"VDM_JAX_{kind.upper()}_VOCABULARY")
    if not path:
        pytest.skip(f"set VDM_JAX_{kind.upper()}_VOCABULARY to {text.KINDS[kind].source}")
    tokenizer = text.load(path, kind)
    assert tokenizer.vocabulary == {"clip": 49_408, "gpt2": 50_257}[kind] and tokenizer.end == END[kind]
    assert tokenizer.tokens(GOLDENS["strings"]) == GOLDENS[NAMES[kind]]


# ---------------------------------------------------------------- the mechanism, on vocabularies of a few merges


def test_merges_apply_in_their_order():
    ids = vocabulary.table("gpt2", [("b", "c"), ("a", "b"), ("a", "bc")])
    tokenizer = Tokenizer("gpt2", [("b", "c"), ("a", "b"), ("a", "bc")])
    assert tokenizer.tokens(["ABC abab"]) == [[ids["abc"], ids["Ġ"], ids["ab"], ids["ab"]]]
    assert (ids["!"], ids["bc"], ids["ab"], ids["abc"], ids["<|endoftext|>"]) == (0, 256, 257, 258, 259)


def test_ends_of_words_are_other_tokens_in_clip():
    tokenizer = Tokenizer("clip", [("a", "b"), ("a", "b</w>")])
    a, b = ord("a") - 33, ord("b") - 33
    assert tokenizer.tokens(["ab abab b a"]) == [[513, 512, 513, 256 + b, 256 + a]]
    assert (tokenizer.start, tokenizer.end, tokenizer.pad, tokenizer.vocabulary) == (514, 515, 0, 516)
    assert tokenizer.encode("ba", 6).ids.tolist() == [[514, b, 256 + a, 515, 0, 0]]


def test_every_byte_has_a_character():
    library = pytest.importorskip("tokenizers")
    assert sorted(library.pre_tokenizers.ByteLevel.alphabet()) == list(vocabulary.BYTES)
    assert len(set(vocabulary.BYTES)) == 256


@pytest.fixture
def published(tmp_path, monkeypatch):
    """Vocabulary files as they are published, of three merges."""
    for kind in ("clip", "gpt2"):
        monkeypatch.setitem(text.KINDS, kind, text.KINDS[kind]._replace(merges=3))
    lines = '"bpe#version: 0.2\nb c</w>\na bc</w>\na b\n'
    (tmp_path / "bpe_simple_vocab_16e6.txt.gz").write_bytes(gzip.compress(f"{lines}never used\n".encode()))
    (tmp_path / "vocab.bpe").write_text("#version: 0.2\nb c\na bc\na b\n")
    return tmp_path


def test_published_files_are_read_compressed_or_not_and_in_their_folder(published):
    clip = text.load(str(published / "bpe_simple_vocab_16e6.txt.gz"), "clip")
    assert clip.merges == (("b", "c</w>"), ("a", "bc</w>"), ("a", "b")) and clip.tokens(["abc"]) == [[513]]
    gpt2 = text.load(str(published), "gpt2")
    assert gpt2.merges == (("b", "c"), ("a", "bc"), ("a", "b")) and gpt2.tokens(["abc"]) == [[257]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.write_bytes(f.read_bytes()[:30]), "is not a readable vocabulary .*; fetch bpe_simple_vocab"),
        (lambda f: f.write_text("#\na b\n"), "has 1 merges where clip has 3; it should be .* whole"),
        (lambda f: f.write_text("#\na b c\na b\na b\n"), "is not a readable vocabulary"),
        (lambda f: f.write_text("#\na b\nabc d\na b\n"), "it merges 'abc' and 'd', which are not both earlier tokens"),
        (lambda f: f.write_text('{"kind": "clip"}'), "is not a readable vocabulary"),
        (lambda f: f.unlink(), "the vocabulary of the clip tokenizer is not at .*; give the path to .*'openai-clip'"),
    ],
)
def test_broken_vocabularies_are_refused(published, change, message):
    file = published / "bpe_simple_vocab_16e6.txt.gz"
    change(file)
    with pytest.raises(UserError, match=message):
        text.load(str(file), "clip")


def test_unknown_kinds_and_empty_paths_are_refused():
    with pytest.raises(UserError, match="tokenizer kind 'wordpiece' is not one of clip, gpt2, bpe"):
        text.load("x", "wordpiece")
    with pytest.raises(UserError, match="the vocabulary of the gpt2 tokenizer is not at ''"):
        text.load("", "gpt2")


@pytest.mark.parametrize("name", ["tokenizers", "ftfy"])
def test_a_missing_package_is_named(monkeypatch, name):
    tokenizer = Tokenizer("clip", [])
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        UserError, match=rf"text needs the package '{name}'; install it with pip install 'vdm_jax\[text\]'"
    ):
        (Tokenizer if name == "tokenizers" else lambda *_: tokenizer.tokens(["a"]))("clip", [])


@pytest.mark.parametrize(
    ("texts", "message"), [([3], "not 3"), (["a\ud800"], "not valid Unicode"), ([b"a"], "not b'a'")]
)
def test_what_is_no_text_is_refused(texts, message):
    with pytest.raises(UserError, match=message):
        Tokenizer("bpe", []).encode(texts, 8)


# ---------------------------------------------------------------- trained on captions

CAPTIONS = ["a small red circle", "a large red square", "A large  blue circle", "a red circle above a blue square"] * 3


def test_training_merges_what_is_frequent():
    tokenizer = text.train_bpe(CAPTIONS, 300)
    words = ["a", "red", "circle", "large", "blue", "square"]
    assert [len(ids) for ids in tokenizer.tokens(words)] == [1] * 6
    assert tokenizer.vocabulary <= 300 and tokenizer.end == tokenizer.vocabulary - 1 == tokenizer.start + 1
    assert tokenizer.tokens(["A  RED\ncircle"])[0] == [ids[0] for ids in tokenizer.tokens(["a", "red", "circle"])]
    assert text.train_bpe(CAPTIONS, 300).merges == tokenizer.merges


def test_a_trained_tokenizer_knows_every_text():
    tokenizer = text.train_bpe(CAPTIONS, 270)
    tokens = tokenizer.tokens(["🙂 é"])[0]
    inverse = {number: token for token, number in vocabulary.table("bpe", tokenizer.merges).items()}
    data = bytes(vocabulary.BYTES.index(character) for token in tokens for character in inverse[token])
    order = [*range(33, 127), *range(161, 173), *range(174, 256)]
    order += [byte for byte in range(256) if byte not in order]
    assert bytes(order[place] for place in data).decode() == " 🙂 é"


def test_saved_and_pickled_tokenizers_are_the_same(tmp_path):
    tokenizer = text.train_bpe(CAPTIONS, 290)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    for again in (text.load(str(tmp_path), "bpe"), pickle.loads(pickle.dumps(tokenizer))):
        assert (again.digest, again.vocabulary) == (tokenizer.digest, tokenizer.vocabulary)
        assert again.tokens(CAPTIONS) == tokenizer.tokens(CAPTIONS)
    with pytest.raises(UserError, match="is a tokenizer of kind 'bpe', not 'clip'"):
        text.load(str(tmp_path / "tokenizer.json"), "clip")
    clip, _ = _golden("clip")
    clip.save(str(tmp_path / "other.json"))
    assert text.load(str(tmp_path / "other.json"), "clip").tokens(GOLDENS["strings"]) == clip.tokens(GOLDENS["strings"])


def test_tables_without_room_are_refused():
    with pytest.raises(UserError, match="a tokenizer of 100 tokens is too small; it needs 258"):
        text.train_bpe(CAPTIONS, 100)
    assert text.train_bpe(CAPTIONS, 258).merges == ()
    with pytest.raises(UserError, match="a context of 2 tokens has no room for words"):
        Tokenizer("bpe", []).encode("a", 2)
