"""What counts as the same result."""

import numpy as np
import pytest

from mask_former.d2.errors import InputError
from mask_former.d2.export.checking import Found, Region, Report, agreement


def found(*regions, numbers=()):
    labels = np.full((4, 5), -1)
    for region in reversed(regions):
        labels[region.mask] = region.label
    return Found(labels, numbers, regions)


def region(label, columns, score=0.5):
    mask = np.zeros((4, 5), bool)
    mask[:, :columns] = True
    return Region(label, mask, score)


def test_equal_results_agree():
    one = found(region(1, 3), numbers=[np.array([2.0, -4.0])])
    assert agreement(one, one) == Report(0.0, 1.0, 1, 1)


def test_differences_are_relative_to_the_largest_number():
    a, b = found(numbers=[np.array([2.0, -4.0])]), found(numbers=[np.array([2.2, -4.0])])
    assert agreement(a, b).difference == pytest.approx(0.05)


def test_regions_are_matched_by_class_and_overlap():
    expected = found(region(1, 4, 0.5), region(2, 2))
    other = found(region(1, 3, 0.7), region(0, 2))
    report = agreement(expected, other)
    assert (report.matched, report.regions) == (1, 2)
    assert report.difference == pytest.approx(0.2)
    assert report.pixels == pytest.approx(1 / 5 + 3 / 5)
    assert agreement(expected, found(region(1, 1))).matched == 0


@pytest.mark.parametrize(
    ("report", "task", "precision", "named"),
    [
        (Report(2e-4, 1, 0, 0), "semantic", "float32", r"differ by 2\.0e-04, above 0\.0001"),
        (Report(0, 0.9998, 0, 0), "panoptic", "float32", r"99\.980 % .* below 99\.99 %"),
        (Report(0.1, 0.998, 0, 0), "raw", "float16", r"99\.800 % .* below 99\.9 %"),
        (Report(0.1, 0.9, 98, 100), "instance", "float32", r"98 of 100 instances"),
    ],
)
def test_what_lies_beyond_a_bound_is_refused(report, task, precision, named):
    with pytest.raises(InputError, match=named):
        report.check(task, precision)


@pytest.mark.parametrize(
    ("report", "task", "precision"),
    [
        (Report(9e-5, 0.99995, 0, 0), "semantic", "float32"),
        (Report(0.1, 0.9995, 0, 0), "semantic", "float16"),
        (Report(1, 0.5, 0, 9), "panoptic", "int8"),
        (Report(1, 0.9, 99, 100), "instance", "float32"),
    ],
)
def test_what_lies_within_is_not(report, task, precision):
    report.check(task, precision)
    assert "ms exported" in str(report)
