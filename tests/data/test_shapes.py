"""Pictures of shapes: what they say, that they are read back, and where the parser gives up or errs."""

import pickle

import numpy as np
import pytest
from scipy import ndimage

from vdm_jax import data
from vdm_jax.data import shapes
from vdm_jax.data.shapes import Drawn, Scene, Shapes, Thing, pair, parse, read_caption, single
from vdm_jax.data.shapes.render import FORMS, coverage
from vdm_jax.data.shapes.scene import COLORS, POSITIONS, RADII, RELATIONS, SHAPES
from vdm_jax.errors import UserError

RED, BLUE = Thing("circle", "red", "small"), Thing("square", "blue", "large")
THINGS = [Thing(shape, color, size) for shape in SHAPES for color in COLORS for size in RADII]


# ---------------------------------------------------------------- scenes and captions


def test_two_descriptions_of_one_scene_are_equal():
    assert pair(RED, "left of", BLUE) == pair(BLUE, "right of", RED)
    assert pair(RED, "above", BLUE) == pair(BLUE, "below", RED)
    assert pair(RED, "left of", BLUE) != shapes.swapped(pair(RED, "left of", BLUE)) == pair(BLUE, "left of", RED)


def test_every_scene_has_its_own_number():
    scenes = [single(thing, column, row) for thing in THINGS for column in range(3) for row in range(3)]
    scenes += [pair(a, relation, b) for a in THINGS for b in THINGS for relation in RELATIONS]
    assert sorted(scene.number for scene in scenes) == list(range(shapes.SCENES)) and shapes.SCENES == 19_296


def test_captions_say_all_of_a_scene():
    assert shapes.captions(single(RED, 0, 0)) == (
        "a small red circle at the top left",
        "there is a small red circle at the top left",
        "small red circle, top left",
        "at the top left is a small red circle",
    )
    texts = shapes.captions(pair(RED, "left of", BLUE))
    assert texts[0] == "a small red circle left of a large blue square"
    assert "a large blue square to the right of a small red circle" in texts and len(set(texts)) == len(texts) == 8
    for thing in THINGS[::7]:
        scenes = [single(thing, column, row) for column in range(3) for row in range(3)]
        scenes += [pair(thing, relation, other) for other in THINGS[::5] for relation in RELATIONS]
        for scene in scenes:
            assert {read_caption(text) for text in shapes.captions(scene)} == {scene}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a photo of a dog",
        "a small red circle",
        "a small red circle beside a large blue square",
        "a red circle left of a blue square",
        "a small red circle left of a large blue square above a small black ring",
    ],
)
def test_other_text_describes_no_scene(text):
    assert read_caption(text) is None


# ---------------------------------------------------------------- pictures


@pytest.mark.parametrize("shape", SHAPES)
def test_coverage_adds_up_to_the_area(shape):
    form, radius = FORMS[shape], 11.3
    found = coverage(shape, 20.2, 19.7, radius, 40)
    places = np.arange(40) + 0.5
    assert found.sum() == pytest.approx(form.area * radius**2, rel=8e-3)
    assert found.sum(0) @ places / found.sum() == pytest.approx(20.2, abs=0.05)
    assert found.sum(1) @ places / found.sum() == pytest.approx(19.7 + form.middle * radius, abs=0.05)


def test_edges_are_between_the_color_and_white():
    image = shapes.draw([Drawn("square", "black", 0.5, 0.5, 4.5 / 0.9 / 32)], 32)  # half-pixel edges: 11.5 … 20.5
    assert (image[16, 16], image[0, 0]) == (pytest.approx(20), pytest.approx(255))
    np.testing.assert_array_equal(image[16, [11, 20]], np.rint((20 + 255) / 2))
    np.testing.assert_array_equal(image[11, 11], np.rint(255 - (255 - 20) / 4))


def test_a_record_depends_on_seed_and_index_alone():
    source = Shapes("train", 1000)
    record = pickle.loads(pickle.dumps(source))[123]
    np.testing.assert_array_equal(record["image"], source[123]["image"])
    assert record["caption"] == source[123]["caption"] in record["captions"]
    assert record["scene"] == source.scene(123).number == read_caption(record["caption"]).number
    others = [Shapes("train", 1000)[124], Shapes("train", 1000, seed=1)[123], Shapes("test", 1000)[123]]
    assert all((other["image"] != record["image"]).any() for other in others)


def test_training_never_shows_what_is_held_out():
    seen, held = Shapes("train", 2000), Shapes("held_out", 500)
    combined = lambda source: {(t.shape, t.color) for k in range(len(source)) for t in source.scene(k).things}
    out = {(shape, color) for shape, color in zip(SHAPES, COLORS, strict=False)}
    assert combined(seen) == combined(Shapes("test", 2000)) == {(s, c) for s in SHAPES for c in COLORS} - out
    assert all(held.scene(k).held_out for k in range(len(held))) and combined(held) >= out
    everything = [seen.scene(k) for k in range(2000)]
    assert {scene.where for scene in everything} == {place for row in POSITIONS for place in row} | set(RELATIONS)
    assert 0.45 < np.mean([len(scene.things) for scene in everything]) - 1 < 0.55


# ---------------------------------------------------------------- the parser


@pytest.mark.parametrize(("side", "count"), [(32, 250), (33, 50), (64, 50)])
def test_every_picture_is_read_back(side, count):
    for split in ("train", "held_out"):
        source = Shapes(split, 10**6, side)
        assert [parse(source[k]["image"]) for k in range(count)] == [source.scene(k) for k in range(count)]


@pytest.mark.slow
def test_thousands_of_pictures_are_read_back():
    source = Shapes("held_out", 10**6, seed=3)
    assert sum(parse(source[k]["image"]) != source.scene(k) for k in range(5000)) == 0


def _rates(change, count=80):
    """(share read right, share read as another scene); the rest is None."""
    source = Shapes("test", 10**6)
    found = [(parse(change(source[k]["image"], k)), source.scene(k)) for k in range(count)]
    return np.mean([a == b for a, b in found]), np.mean([a is not None and a != b for a, b in found])


@pytest.mark.parametrize(("deviation", "right"), [(8, 1.0), (16, 1.0), (24, 0.7), (48, 0.0)])
def test_noise_makes_the_parser_give_up_but_not_err(deviation, right):
    def noisy(image, k):
        noise = np.random.default_rng(k).normal(0, deviation, image.shape)
        return np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)

    found, wrong = _rates(noisy)
    assert found >= right and wrong == 0


@pytest.mark.parametrize(("sigma", "right"), [(0.4, 1.0), (0.6, 0.96), (0.8, 0.6), (1.5, 0.0)])
def test_blur_makes_the_parser_give_up_but_hardly_err(sigma, right):
    blurred = lambda image, k: np.rint(ndimage.gaussian_filter(image.astype(float), (sigma, sigma, 0))).astype(np.uint8)
    found, wrong = _rates(blurred)
    assert found >= right and wrong <= 0.02


@pytest.mark.parametrize("cut", ["left", "right", "top", "bottom"])
def test_half_drawn_shapes_are_none_but_a_triangles_top(cut):
    rng = np.random.default_rng(0)
    for thing in (Thing(shape, "blue", size) for shape in SHAPES for size in RADII):
        if (thing.shape, cut) == ("triangle", "top"):  # a smaller triangle
            continue
        for _ in range(5):
            x, y = rng.uniform(0.47, 0.53, 2)
            image = shapes.draw([Drawn(*thing[:2], x, y, rng.uniform(*RADII[thing.size]))], 32)
            half = round(32 * (x if cut in ("left", "right") else y))
            erased = np.s_[half:] if cut in ("left", "top") else np.s_[:half]
            (image.transpose(1, 0, 2) if cut in ("left", "right") else image)[erased] = 255
            assert parse(image) is None, thing


@pytest.mark.parametrize(
    "things",
    [
        [],
        [Drawn("circle", "red", 0.5, 0.5, 0.3)],  # neither small nor large
        [Drawn("circle", "red", 0.25, 0.5, 0.11), Drawn("circle", "red", 0.6, 0.85, 0.11)],  # neither beside nor above
        [Drawn("circle", "red", x, 0.5, 0.1) for x in (0.2, 0.5, 0.8)],
        [Drawn("circle", "red", 0.46, 0.5, 0.11), Drawn("ring", "blue", 0.56, 0.5, 0.17)],  # overlap
    ],
)
def test_other_pictures_show_none(things):
    assert parse(shapes.draw(things, 32)) is None


def test_other_colors_and_too_small_pictures_are_refused():
    image = shapes.draw([Drawn("circle", "green", 0.5, 0.5, 0.11)], 32)
    assert parse(image) == single(Thing("circle", "green", "small"), 1, 1)
    assert parse(np.where((image == 255).all(-1, keepdims=True), image, [0, 255, 255]).astype(np.uint8)) is None
    with pytest.raises(ValueError, match="32 pixels or more"):
        parse(image[:31, :31])


def test_agreement_counts_what_is_right():
    wanted = pair(RED, "left of", BLUE)
    assert shapes.agreement(wanted, wanted) == dict.fromkeys(("scene", "count", "shape", "color", "size", "where"), 1.0)
    assert set(shapes.agreement(None, wanted).values()) == {0.0}
    assert set(shapes.agreement(single(RED, 1, 1), wanted).values()) == {0.0}
    mixed = Scene((RED, BLUE._replace(color="red")), "above")
    assert shapes.agreement(mixed, wanted) == {
        "scene": 0.0, "count": 1.0, "shape": 1.0, "color": 0.5, "size": 1.0, "where": 0.0
    }  # fmt: skip


# ---------------------------------------------------------------- as a data set


def test_shapes_are_a_data_set_with_captions():
    dataset = data.load("shapes", "train", shape=(40, 40, 3))
    assert (dataset.num_examples, dataset.shape, dataset.vocabulary) == (50_000, (40, 40, 3), 256)
    data.check(data.load("shapes", "tune"), (32, 32, 3), 256)
    held = data.load("shapes_held_out", "test").source
    assert held.scene(0).held_out and not data.load("shapes_held_out", "train").source.scene(0).held_out


def test_batches_draw_one_of_the_captions_by_seed_and_place():
    dataset = data.load("shapes", "tune")
    batches = data.train_iterator(dataset, seed=5, batch_size=16)
    first, second = next(batches), next(batches)
    assert "captions" not in first and first["scene"].dtype == np.int32
    for caption, image, number in zip(first["caption"], first["image"], first["scene"], strict=True):
        assert read_caption(caption) == parse(image) and parse(image).number == number
    again = data.train_iterator(dataset, seed=5, batch_size=16)
    again.set_state({"next_index": 1})
    np.testing.assert_array_equal(next(again)["caption"], second["caption"])
    halves = [
        next(data.train_iterator(dataset, seed=5, batch_size=16, process_index=p, process_count=2)) for p in (0, 1)
    ]
    np.testing.assert_array_equal(np.concatenate([half["caption"] for half in halves]), first["caption"])
    first_of_all = [record["caption"] for record in (dataset.source[k] for k in range(8))]
    assert next(data.eval_batches(dataset, batch_size=8))["caption"].tolist() == first_of_all


@pytest.mark.parametrize("kind", ["flip", "rot90", "channels", "crop"])
def test_augmentations_that_falsify_captions_are_refused(kind):
    with pytest.raises(UserError, match=f"data.augment has '{kind}', which makes captions of shapes false"):
        data.train_iterator(data.load("shapes", "test"), seed=0, batch_size=4, augment=(kind,))


@pytest.mark.parametrize(
    ("path", "shape", "message"),
    [
        ("x", None, "data.path='x' is not used by 'shapes'"),
        ("", (16, 16, 3), r"data.shape=\(16, 16, 3\) but shapes are .*'\(32, 32, 3\)'"),
        ("", (32, 32, 1), r"RGB squares of 32 pixels or more"),
        ("", (32, 48, 3), r"RGB squares of 32 pixels or more"),
    ],
)
def test_what_shapes_are_not_is_refused(path, shape, message):
    with pytest.raises(UserError, match=message):
        data.load("shapes", "train", path=path, shape=shape)
