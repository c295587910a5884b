"""The paper's augmentations: their frequencies, their group facts, and what the conditioning bit means."""

import numpy as np
import pytest

from vdm_jax.data.augment import KINDS, augment, check_kinds
from vdm_jax.errors import UserError

# All 8 symmetries of the square x 6 channel orders are different images.
IMAGE = np.arange(4 * 4 * 3, dtype=np.uint8).reshape(4, 4, 3)
DRAWS = 4000


def _draws(kinds):
    rng = np.random.default_rng(0)
    return [augment(IMAGE, rng, kinds) for _ in range(DRAWS)]


def _assert_frequency(count: float, probability: float):
    """Within 4 standard deviations of a binomial of DRAWS draws."""
    sd = np.sqrt(DRAWS * probability * (1 - probability))
    assert abs(count - DRAWS * probability) < 4 * sd


def _counts(images) -> dict[bytes, int]:
    counts: dict[bytes, int] = {}
    for image in images:
        counts[image.tobytes()] = counts.get(image.tobytes(), 0) + 1
    return counts


def test_flip_is_left_to_right_half_of_the_time():
    counts = _counts(image for image, _ in _draws(("flip",)))
    assert counts.keys() == {IMAGE.tobytes(), IMAGE[:, ::-1].tobytes()}
    _assert_frequency(counts[IMAGE.tobytes()], 1 / 2)


def test_rot90_gives_each_of_three_rotations_a_sixth_of_the_time():
    counts = _counts(image for image, _ in _draws(("rot90",)))
    assert counts.keys() == {np.rot90(IMAGE, k).tobytes() for k in range(4)}
    for k, probability in enumerate((1 / 2, 1 / 6, 1 / 6, 1 / 6)):
        _assert_frequency(counts[np.rot90(IMAGE, k).tobytes()], probability)


def test_four_equal_rotations_are_none():
    """The rotation drawn, as a permutation of positions, has order 4: twice is not nothing, four times is."""
    turned = next(image for image, _ in _draws(("rot90",)) if image[0, 0, 0] == IMAGE[0, -1, 0])
    once = np.searchsorted(IMAGE.ravel(), turned.ravel())
    twice = once[once]
    assert not np.array_equal(twice, np.arange(once.size))
    np.testing.assert_array_equal(twice[twice], np.arange(once.size))


def test_channels_permutes_whole_channels_uniformly():
    counts = _counts(image for image, _ in _draws(("channels",)))
    assert len(counts) == 6
    _assert_frequency(counts[IMAGE.tobytes()], 1 / 2 + 1 / 12)  # not applied, or the identity drawn
    swapped = IMAGE[..., [1, 0, 2]]
    _assert_frequency(counts[swapped.tobytes()], 1 / 12)


@pytest.mark.parametrize(("kinds", "probability"), [(("flip",), 1 / 2), (("flip", "rot90"), 3 / 4), (KINDS, 7 / 8)])
def test_the_bit_is_set_when_any_coin_said_so(kinds, probability):
    draws = _draws(kinds)
    bits = np.asarray([bit for _, bit in draws])
    assert set(bits) <= {0.0, 1.0}
    _assert_frequency(bits.sum(), probability)
    for image, bit in draws:
        if bit == 0.0:
            np.testing.assert_array_equal(image, IMAGE)


def test_the_bit_is_one_even_when_the_channel_order_drawn_is_the_identity():
    unchanged = sum(bit for image, bit in _draws(("channels",)) if image.tobytes() == IMAGE.tobytes())
    _assert_frequency(unchanged, 1 / 12)


def test_flip_and_rotation_reach_the_eight_symmetries_of_the_square():
    orbit = {np.rot90(flipped, k).tobytes() for flipped in (IMAGE, IMAGE[:, ::-1]) for k in range(4)}
    assert len(orbit) == 8
    assert {image.tobytes() for image, _ in _draws(("flip", "rot90"))} == orbit


def test_augmenting_moves_pixels_and_changes_neither_them_nor_the_source():
    before = IMAGE.copy()
    for image, _ in _draws(KINDS)[:100]:
        assert image.dtype == np.uint8
        np.testing.assert_array_equal(np.sort(image.ravel()), IMAGE.ravel())
    np.testing.assert_array_equal(IMAGE, before)


def test_order_of_the_setting_does_not_matter():
    one = augment(IMAGE, np.random.default_rng(5), ("flip", "rot90", "channels"))
    other = augment(IMAGE, np.random.default_rng(5), ("channels", "rot90", "flip"))
    np.testing.assert_array_equal(one[0], other[0])


@pytest.mark.parametrize(
    ("kinds", "shape", "message"),
    [
        (("flips",), (8, 8, 1), r"data\.augment has 'flips'.*did you mean 'flip'"),
        (("flip",), (2,), r"data\.augment=.* needs images"),
        (("rot90",), (8, 6, 3), "aren't square"),
        (("channels",), (8, 8, 1), "leave it out"),
    ],
)
def test_augmentations_that_make_no_sense_are_refused(kinds, shape, message):
    with pytest.raises(UserError, match=message):
        check_kinds(kinds, shape)
