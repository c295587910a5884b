"""Precision and recall on sets where they can be counted by hand, and against a search without tricks."""

import numpy as np
import pytest

from vdm_jax.evaluation import precision_recall as pr


def column(*values):
    return np.array(values, np.float64)[:, None]


def by_search(points, manifold, k):
    """The definition, one pair at a time."""
    found = []
    for p in points:
        inside = False
        for i, m in enumerate(manifold):
            others = sorted(sum((m - o) ** 2) for j, o in enumerate(manifold) if j != i)
            inside |= bool(sum((p - m) ** 2) <= others[k - 1])
        found.append(inside)
    return found


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("block", [1, 100, 2**24])
def test_it_is_the_definition_in_blocks_of_any_size(k, block, monkeypatch):
    monkeypatch.setattr(pr, "BLOCK", block)
    rng = np.random.default_rng(0)
    samples, reference = rng.normal(size=(25, 3)), rng.normal(size=(30, 3)) + 1.4
    found = pr.precision_recall(samples, reference, k)
    assert found.covered.tolist() == by_search(samples, reference, k)
    assert found.reached.tolist() == by_search(reference, samples, k)
    assert 0 < found.precision < 1 and found.precision == np.mean(found.covered)
    assert 0 < found.recall < 1 and found.recall == np.mean(found.reached)


def test_precision_is_of_the_samples_and_recall_of_the_reference():
    """Samples of one of two modes are all real and miss half; samples far away are none and reach nothing."""
    reference, samples = column(0, 1, 2, 3, 100, 101, 102, 103), column(0.5, 1.5, 2.5, 1.2)
    found = pr.precision_recall(samples, reference, 3)
    assert (found.precision, found.recall) == (1.0, 0.5)
    swapped = pr.precision_recall(reference, samples, 3)
    assert (swapped.precision, swapped.recall) == (found.recall, found.precision)
    far = pr.precision_recall(samples - 1000, reference, 3)
    assert (far.precision, far.recall) == (0.0, 0.0)
    same = pr.precision_recall(reference, reference, 3)
    assert (same.precision, same.recall) == (1.0, 1.0)


def test_the_edge_of_a_ball_is_inside():
    assert pr.within(column(-1, -1.001, 7, 7.001), column(0, 1, 3, 5), 1).tolist() == [True, False, True, False]
    corner = np.array([[0.1, 0.2, 0.3]])  # whose squares do not add up exactly
    assert pr.within(-corner, np.concatenate([0 * corner, corner]), 1).tolist() == [True]


def test_a_point_is_not_its_own_neighbor_but_its_double_is():
    assert pr.within(column(-10, 21), column(0, 10), 1).tolist() == [True, False]  # radius 10, not 0
    assert pr.within(column(0, 0.1), column(0, 0, 50, 51), 1).tolist() == [True, False]  # radius 0
    assert pr.within(column(-50, 0.1), column(0, 0, 50, 51), 2).tolist() == [True, True]  # the second is at 50


def test_too_few_features_and_other_spaces_are_refused():
    with pytest.raises(ValueError, match="3 features do not have 3 neighbors"):
        pr.within(column(0), column(0, 1, 2), 3)
    with pytest.raises(ValueError, match=r"must be \[N, D\]"):
        pr.within(np.zeros((2, 3)), np.zeros((5, 2)))
