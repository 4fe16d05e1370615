"""Numbers of a command line."""

import argparse

import pytest

from mask_former.d2.command_line.arguments import positive, share


def test_numbers_in_their_range():
    assert [positive(text) for text in ("1", "007", "12345")] == [1, 7, 12345]
    assert [share(text) for text in ("0", "1", "0.25", "1e-3")] == [0, 1, 0.25, 0.001]


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "nan", "", "many", "²", "9" * 30])
def test_no_whole_number_from_1_on(text):
    with pytest.raises(argparse.ArgumentTypeError, match="is not a whole number >= 1"):
        positive(text)


@pytest.mark.parametrize("text", ["-0.1", "1.01", "nan", "inf", "", "half"])
def test_no_share(text):
    with pytest.raises(argparse.ArgumentTypeError, match="is not a number from 0 to 1"):
        share(text)
