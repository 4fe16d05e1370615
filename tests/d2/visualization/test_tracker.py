"""Things that are known again in the next frame."""

import numpy as np

from mask_former.d2.visualization.tracker import Tracker


def square(left: int, top: int) -> np.ndarray:
    """A mask of 60 x 120 pixels, 20 x 20 of them set."""
    mask = np.zeros((60, 120), np.uint8)
    mask[top : top + 20, left : left + 20] = 1
    return mask


def test_the_order_of_things_decides_nothing() -> None:
    """Greedy choice would give the first new thing the track of the second."""
    tracker = Tracker()
    assert tracker.number([3, 3], [square(0, 0), square(12, 0)]) == [0, 1]
    # 8 overlaps both: 0 by 12 / 28, 1 by 16 / 24; 20 overlaps 1 alone, by 12 / 28.
    assert tracker.number([3, 3], [square(8, 0), square(20, 0)]) == [0, 1]


def test_a_class_has_its_own_numbers() -> None:
    tracker = Tracker()
    assert tracker.number([3, 4], [square(0, 0), square(40, 0)]) == [0, 0]
    assert tracker.number([4, 3], [square(0, 0), square(40, 0)]) == [1, 1]  # not the same things


def test_a_missing_thing_is_remembered_for_a_while() -> None:
    tracker = Tracker(patience=2)
    a, b = square(0, 0), square(60, 0)
    assert tracker.number([3, 3], [a, b]) == [0, 1]
    assert tracker.number([3], [b]) == [1]
    assert tracker.number([3, 3], [a, b]) == [0, 1]
    for _ in range(2):
        assert tracker.number([3], [b]) == [1]
    assert tracker.number([], []) == []
    # a is forgotten: whatever comes next may have its number.
    assert tracker.number([3, 3], [square(30, 30), b]) == [0, 1]


def test_too_little_overlap() -> None:
    tracker = Tracker(overlap=0.5)
    assert tracker.number([3], [square(0, 0)]) == [0]
    assert tracker.number([3], [square(6, 0)]) == [0]  # 14 / 26
    assert tracker.number([3], [square(13, 0)]) == [1]  # 13 / 27
