"""Suppression of overlapping boxes within a label: the same as torchvision's."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.ops import batched_nms, box_iou

from finecap.boxes import box_ious
from finecap.engine.detectors.nms import class_aware_nms

# Few places and few scores: overlaps of every degree and many ties.
CORNER = st.tuples(st.integers(0, 12), st.integers(0, 12), st.integers(1, 8), st.integers(1, 8))
ITEM = st.tuples(CORNER, st.sampled_from([0.3, 0.5, 0.5, 0.9]), st.sampled_from(["dog", "car", "tree"]))


def arrays(items):
    boxes = np.array([(x, y, x + w, y + h) for (x, y, w, h), _, _ in items], np.float64).reshape(-1, 4)
    return boxes, [score for _, score, _ in items], [label for _, _, label in items]


def by_torchvision(boxes, scores, labels, max_iou):
    classes = torch.tensor([sorted(set(labels)).index(label) for label in labels])
    return batched_nms(torch.tensor(boxes), torch.tensor(scores, dtype=torch.float64), classes, max_iou).tolist()


@given(st.lists(ITEM, min_size=1, max_size=30), st.sampled_from([0.31, 0.53, 0.7]))
def test_it_keeps_what_torchvision_keeps_with_ties(items, max_iou):
    boxes, scores, labels = arrays(items)
    assert sorted(class_aware_nms(boxes, scores, labels, max_iou)) == sorted(
        by_torchvision(boxes, scores, labels, max_iou)
    )


@pytest.mark.parametrize("count", [10, 300, 2000])  # torchvision takes another way above 1000 boxes
def test_it_keeps_what_torchvision_keeps_in_the_same_order_without_ties(count):
    random = np.random.default_rng(count)
    corners = random.uniform(0, 500, (count, 2))
    boxes = np.hstack([corners, corners + random.uniform(5, 300, (count, 2))])
    scores, labels = random.permutation(count) / count, [f"label {index}" for index in random.integers(0, 5, count)]
    kept = class_aware_nms(boxes, scores, labels, 0.7)
    assert kept == by_torchvision(boxes, scores, labels, 0.7)
    assert count == 10 or len(kept) < count
    shuffled = list(random.permutation(labels))
    assert count == 10 or kept != by_torchvision(boxes, scores, shuffled, 0.7), "the labels must matter"


@given(st.lists(ITEM, max_size=20))
def test_what_stays_overlaps_little_and_what_goes_was_covered_by_a_better_one(items):
    boxes, scores, labels = arrays(items)
    kept = class_aware_nms(boxes, scores, labels, 0.5)
    for index in range(len(items)):
        rivals = [
            other
            for other in kept
            if other != index and labels[other] == labels[index] and box_ious(boxes[index], boxes[[other]])[0] > 0.5
        ]
        if index in kept:
            assert not rivals
        else:
            assert any((-scores[other], other) < (-scores[index], index) for other in rivals)
    assert [scores[index] for index in kept] == sorted((scores[index] for index in kept), reverse=True)


@given(st.lists(ITEM, min_size=2, max_size=10))
def test_overlap_is_that_of_torchvision(items):
    boxes, _, _ = arrays(items)
    expected = box_iou(torch.tensor(boxes[:1]), torch.tensor(boxes[1:]))[0]
    np.testing.assert_allclose(box_ious(boxes[0], boxes[1:]), expected, atol=1e-12)
