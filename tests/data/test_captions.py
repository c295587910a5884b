"""Images with captions of the user's: folders, tables, shards, arrays; which caption is whose; what is refused."""

import csv
import io
import json
import pickle
import tarfile

import numpy as np
import pytest

from vdm_jax import data
from vdm_jax.data import captioning, shards
from vdm_jax.errors import UserError

IMAGES = np.random.default_rng(0).integers(0, 256, (20, 6, 5, 3), np.uint8)
WORDS = [f"picture number {k}, of {'one cat' if k == 1 else f'{k} cats'} – ça va 🐈" for k in range(20)]


def _pairs(dataset):
    """(bytes of an image, its caption) of all records."""
    return {
        (record["image"].tobytes(), record["caption"])
        for record in map(dataset.source.__getitem__, range(len(dataset.source)))
    }


ALL = {(image.tobytes(), words) for image, words in zip(IMAGES, WORDS, strict=True)}


def _load(path, split="train", **options):
    return data.load("captions", split, path=str(path), **options)


@pytest.fixture
def folder(tmp_path, png):
    """Twenty images in two subfolders, without captions."""
    for k, image in enumerate(IMAGES):
        path = tmp_path / "pictures" / f"{k % 2}" / f"{k:02d}.x.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(image))
    return tmp_path / "pictures"


def _beside(folder, texts=WORDS):
    for k, text in enumerate(texts):
        (folder / f"{k % 2}" / f"{k:02d}.x.txt").write_text(f"{text}\n", encoding="utf-8")


def _lines(folder, name="captions.jsonl", key="caption"):
    rows = [{"file_name": f"{k % 2}/{k:02d}.x.png", key: text} for k, text in enumerate(WORDS)]
    with open(folder / name, "w", encoding="utf-8", newline="") as file:
        if name.endswith("csv"):
            writer = csv.DictWriter(file, ["file_name", key])
            writer.writeheader()
            writer.writerows(rows)
        else:
            file.write("\n".join(json.dumps(row) for row in rows))


# ---------------------------------------------------------------- folders


@pytest.mark.parametrize(
    "write",
    [
        _beside,
        _lines,
        lambda folder: _lines(folder, "metadata.jsonl", "text"),
        lambda folder: _lines(folder, "captions.csv"),
    ],
)
def test_every_image_of_a_folder_has_its_caption(folder, write, capsys):
    write(folder)
    train, test = (_load(folder, split) for split in ("train", "test"))
    assert (len(train.source), len(test.source)) == (18, 2) and _pairs(train) | _pairs(test) == ALL
    record = train.source[0]
    assert "captions" not in record and record["label"] in (0, 1)
    assert train.source[3]["caption"] == pickle.loads(pickle.dumps(train.source))[3]["caption"]
    assert "not read" not in capsys.readouterr().err
    data.check(train, (6, 5, 3), 256, classes=2)


def test_tables_in_subfolders_name_images_there(folder):
    for part in "01":
        rows = [{"image": f"{k:02d}.x.png", "captions": [WORDS[k]]} for k in range(20) if str(k % 2) == part]
        (folder / part / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert _pairs(_load(folder)) | _pairs(_load(folder, "test")) == ALL


def test_splits_and_resizing_are_those_of_a_folder(folder):
    (folder / "0").rename(folder / "train")
    (folder / "1").rename(folder / "val")
    for k, text in enumerate(WORDS):
        (folder / ("train", "val")[k % 2] / f"{k:02d}.x.txt").write_text(text)
    assert _pairs(_load(folder)) == {pair for pair in ALL if pair[1] in WORDS[::2]}
    assert [_load(folder, "test").source[k]["caption"] for k in range(10)] == WORDS[1::2]
    small = _load(folder, shape=(4, 4, 3), resize="area")
    assert small.shape == (4, 4, 3) and small.source[2]["caption"] == _load(folder).source[2]["caption"]


def test_of_several_captions_one_is_drawn_equally_often(folder):
    _beside(folder, [f"{text}\n\n  other {k}  " for k, text in enumerate(WORDS)])
    train = _load(folder)
    record = train.source[4]
    assert record["captions"][0] == record["caption"] and record["captions"][1].startswith("other ")
    batches = data.train_iterator(train, seed=3, batch_size=18)
    drawn = np.concatenate([next(batches)["caption"] for _ in range(40)])
    share = np.mean([text.startswith("other") for text in drawn])
    assert abs(share - 0.5) < 4 * np.sqrt(0.25 / len(drawn))
    assert set(drawn) == {text for k in range(18) for text in train.source[k]["captions"]}


def test_the_version_changes_with_a_word(folder):
    _beside(folder)
    before = _load(folder)
    (folder / "0" / "00.x.txt").write_text("another")
    after = [_load(folder, split) for split in ("train", "test")]
    assert before.version != after[0].version or _load(folder, "test").version != after[1].version
    assert before.version.startswith("folder:pictures:") and ", captions " in before.version


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: None, r"18 of 18 images, such as .*\.png, have no caption; write it to .*\.txt"),
        (lambda f: _beside(f, WORDS[:-1]), r"1 of 18 images, such as .*19\.x\.png, have no caption"),
        (lambda f: _beside(f, [*WORDS[:-1], " "]), r"19\.x\.txt is an empty caption"),
        (lambda f: (_beside(f), (f / "0" / "00.x.txt").write_bytes(b"\xff\xfe\x00")), "is not readable text .* UTF-8"),
        (lambda f: (f / "captions.jsonl").write_text('{"file_name": "0/00.x.png", "caption": "a"}'), "17 of 18 images"),
        (lambda f: (f / "captions.jsonl").write_text('{"caption": "a"}'), "line 1 of .* names no image"),
        (lambda f: (f / "captions.jsonl").write_text('\n{"file_name": "a"}'), "line 2 of .* names no caption"),
        (lambda f: (f / "captions.jsonl").write_text('{"file_name": "a", "text": ""}'), "line 1 of .* is an empty"),
        (lambda f: (f / "captions.jsonl").write_text("file_name"), "line 1 of .* is not JSON"),
        (lambda f: (f / "captions.csv").write_text("file_name,text\na.png, \n"), "row 2 of .* is an empty caption"),
    ],
)
def test_images_without_captions_are_named(folder, change, message):
    change(folder)
    with pytest.raises(UserError, match=message):
        for split in ("train", "test"):
            _load(folder, split)


# ---------------------------------------------------------------- shards


def _tar(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def _members(png, numbers, *, text=True, about=True):
    """As img2dataset writes them: 000000012.png, .json, .txt."""
    for k in numbers:
        yield f"{k:09d}.png", png(IMAGES[k])
        if about:
            yield f"{k:09d}.json", json.dumps({"caption": WORDS[k], "url": "x", "status": "success"}).encode()
        if text:
            yield f"{k:09d}.txt", WORDS[k].encode()


@pytest.mark.parametrize(("text", "about"), [(True, True), (True, False), (False, True)])
def test_every_image_of_a_shard_has_its_caption(tmp_path, png, text, about):
    _tar(tmp_path / "s" / "00000.tar", _members(png, range(12), text=text, about=about))
    _tar(tmp_path / "s" / "00001.tar", _members(png, range(12, 20), text=text, about=about))
    train, test = (_load(tmp_path / "s", split) for split in ("train", "test"))
    assert (len(train.source), len(test.source)) == (18, 2) and _pairs(train) | _pairs(test) == ALL
    again = pickle.loads(pickle.dumps(train.source))
    np.testing.assert_array_equal(again[7]["image"], train.source[7]["image"])
    data.check(train, (6, 5, 3), 256)
    one = _load(tmp_path / "s" / "00000.tar")
    assert len(one.source) == 11 and _pairs(one) < ALL


def test_the_version_of_shards_changes_with_an_image_and_with_a_word(tmp_path, png):
    members = list(_members(png, range(10), about=False))
    (image, pixels), (text, words) = members[:2]
    changed = [members, [(image, pixels + b"\0"), *members[1:]], [members[0], (text, words.upper()), *members[2:]]]
    versions = {
        tuple(_load(_tar(tmp_path / f"{k}" / "0.tar", each), part).version for part in ("train", "test"))
        for k, each in enumerate(changed)
    }
    assert len(versions) == 3


def test_shards_are_split_by_their_names(tmp_path, png):
    _tar(tmp_path / "s" / "cats-train-000000.tar", _members(png, range(15)))
    _tar(tmp_path / "s" / "cats-val-000000.tar", _members(png, range(15, 20)))
    assert _pairs(_load(tmp_path / "s")) == {(IMAGES[k].tobytes(), WORDS[k]) for k in range(15)}
    assert [_load(tmp_path / "s", "test").source[k]["caption"] for k in range(5)] == WORDS[15:]


def test_subfolders_split_shards_but_not_the_folder_itself(tmp_path, png):
    _tar(tmp_path / "train" / "0.tar", _members(png, range(12)))
    _tar(tmp_path / "val" / "0.tar", _members(png, range(12, 20)))
    sizes = [len(_load(tmp_path, split).source) for split in ("train", "test")]
    assert sizes == [12, 8]
    for path in (tmp_path / "train", tmp_path / "train" / "0.tar"):  # held out: a tenth
        assert [len(_load(path, split).source) for split in ("train", "test")] == [11, 1]


def test_text_goes_before_json_in_either_order_and_lists_are_several(tmp_path, png):
    about = json.dumps({"caption": "of the json"}).encode()
    members = [("a.json", about), ("a.png", png(IMAGES[0])), ("a.txt", b"of the\n text"), ("b.txt", b"also text")]
    members += [("b.json", about), ("b.png", png(IMAGES[1])), ("b.seg.png", b"not a picture of the pair")]
    members += [("c.png", png(IMAGES[2])), ("c.json", json.dumps({"captions": ["one", "two"]}).encode())]
    found = shards.walk(_tar(tmp_path / "x.tar", members))
    assert dict(zip(found.keys, found.texts, strict=True)) == {
        "a": ("of the text",),
        "b": ("also text",),
        "c": ("one", "two"),
    }


def test_a_shard_stays_where_it_is_and_batches_resume(tmp_path, png):
    _tar(tmp_path / "s" / "0.tar", _members(png, range(20)))
    dataset = _load(tmp_path / "s", shape=(4, 4, 3), resize="crop")
    assert dataset.shape == (4, 4, 3)
    iterator = data.train_iterator(dataset, seed=1, batch_size=6)
    batches = [next(iterator) for _ in range(6)]
    again = data.train_iterator(dataset, seed=1, batch_size=6)
    again.set_state({"next_index": 4})
    np.testing.assert_array_equal(next(again)["caption"], batches[4]["caption"])
    halves = [
        next(data.train_iterator(dataset, seed=1, batch_size=6, process_index=p, process_count=2)) for p in (0, 1)
    ]
    for name in ("image", "caption"):
        np.testing.assert_array_equal(np.concatenate([half[name] for half in halves]), batches[0][name])


def _cut(path, end):
    path.write_bytes(path.read_bytes()[:end])


@pytest.mark.parametrize("end", [300, 700, 1024 + 512, 1024 + 600, 2048, -10240 + 512 * 7])
def test_shards_that_were_cut_short_are_refused(tmp_path, png, end):
    """Within a header, within an image, between two files, within a text."""
    whole = _tar(tmp_path / "0.tar", _members(png, range(9), about=False))
    assert len(_load(whole).source) == 9
    size = whole.stat().st_size
    assert size == 20480 and 9 * 2 * 1024 == 18432  # a header and a block for each file, then zeros
    _cut(whole, end % 18432)
    with pytest.raises(UserError, match=r"0\.tar is not a whole uncompressed tar shard \(.*\); fetch it again"):
        _load(whole)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("a.txt", b"words")], "holds no images; it should have pairs such as 0001.jpg and 0001.txt"),
        ([("a.png", b"")], "the image a in .* has no caption; it needs a.txt, or 'caption' in a.json"),
        ([("a.png", b""), ("a.json", b'{"caption": null}')], "the image a in .* has no caption"),
        ([("a.png", b""), ("a.txt", b" \n")], "a.txt in .* is an empty caption"),
        ([("a.png", b""), ("a.json", b"{")], "a.json in .* is not readable text"),
        ([("a.png", b""), ("a.jpg", b"")], "has two images a; a pair needs a name of its own"),
    ],
)
def test_shards_without_captions_are_refused(tmp_path, members, message):
    with pytest.raises(UserError, match=message):
        _load(_tar(tmp_path / "0.tar", members))


def test_compressed_shards_and_half_a_split_are_refused(tmp_path, png):
    with tarfile.open(tmp_path / "0.tar", "w:gz"):
        pass
    with pytest.raises(UserError, match="is not a whole uncompressed tar shard"):
        _load(tmp_path / "0.tar")
    _tar(tmp_path / "s" / "train-0.tar", _members(png, range(3)))
    with pytest.raises(UserError, match=r"has no shards for test, such as test-00000.tar, though train-0.tar is for"):
        _load(tmp_path / "s")


def test_shards_of_a_bucket_are_read_by_index(bucket, tmp_path, png):
    (bucket / "00000.tar").write_bytes(_tar(tmp_path / "0.tar", _members(png, range(20))).read_bytes())
    found = {pair for split in ("train", "test") for pair in _pairs(_load(bucket, split))}
    assert found == ALL


def test_folders_of_a_bucket_have_their_captions(bucket, folder):
    _beside(folder)
    for file in folder.glob("*/*"):
        (bucket / file.parent.name / file.name).write_bytes(file.read_bytes())
    assert _pairs(_load(bucket)) | _pairs(_load(bucket, "test")) == ALL
    (bucket / "1" / "19.x.txt").unlink()
    with pytest.raises(UserError, match="have no caption; write it to"):
        _pairs(_load(bucket)) | _pairs(_load(bucket, "test"))


# ---------------------------------------------------------------- arrays


def test_every_image_of_arrays_has_its_caption(tmp_path):
    np.savez(tmp_path / "a.npz", x=IMAGES, caption=np.array(WORDS))
    assert _pairs(_load(tmp_path / "a.npz")) | _pairs(_load(tmp_path / "a.npz", "test")) == ALL
    parts = {"x_train": IMAGES[:15], "x_val": IMAGES[15:]}
    np.savez(tmp_path / "b.npz", **parts, captions_train=np.array(WORDS[:15]), captions_val=np.array(WORDS[15:]))
    assert [_load(tmp_path / "b.npz").source[k]["caption"] for k in range(15)] == WORDS[:15]
    assert [_load(tmp_path / "b.npz", "test").source[k]["caption"] for k in range(5)] == WORDS[15:]


def test_rows_of_captions_are_several(tmp_path):
    rows = [[words, "", f"also {k}"] for k, words in enumerate(WORDS)]
    np.savez(tmp_path / "a.npz", x=IMAGES, captions=np.array(rows))
    dataset = _load(tmp_path / "a.npz")
    found = {(dataset.source[k]["image"].tobytes(), dataset.source[k]["captions"]) for k in range(18)}
    assert found < {(image.tobytes(), (row[0], row[2])) for image, row in zip(IMAGES, rows, strict=True)}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": IMAGES}, "a.npz holds x and no captions; save them too"),
        ({"x": IMAGES, "captions": np.array(WORDS[:-1])}, "captions of a.npz holds 19 captions for 20 images"),
        ({"x": IMAGES, "captions": np.array(["", *WORDS[1:]])}, "caption .* of captions in a.npz is an empty caption"),
        ({"x": IMAGES, "captions": np.arange(20)}, r"captions of a.npz is int64 \(20,\); save strings"),
        ({"x": IMAGES, "captions": np.array(WORDS, object)}, "captions of a.npz can't be read .*; save strings"),
        ({"x_train": IMAGES, "x_test": IMAGES, "captions_train": np.array(WORDS)}, "and no captions"),
    ],
)
def test_arrays_without_captions_are_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(UserError, match=message):
        for split in ("train", "test"):
            _load(tmp_path / "a.npz", split)


def test_a_path_that_is_nothing_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"data.path is empty; set --config.data.path to a folder of images with \.txt"):
        _load("")
    with pytest.raises(UserError, match="does not exist"):
        _load(tmp_path / "no")


# ---------------------------------------------------------------- drawing


def test_draws_take_each_caption_of_its_own_range():
    texts = [("a", "b", "c", "d"), ("only",), ("x", "y")] * 2
    uniform = np.array([0.0, 0.9, 0.49, 0.999, 0.0, 0.5])
    assert captioning.draw(texts, uniform).tolist() == ["a", "only", "x", "d", "only", "y"]
