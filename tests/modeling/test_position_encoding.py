"""Sine position encoding against values by hand and its definition."""

import math

import pytest
import torch

from mask_former.modeling.pixel_decoder import TransformerEncoderPixelDecoder
from mask_former.modeling.position_encoding import check_even, sine_position_encoding


def test_published_values():
    encoding = sine_position_encoding(2, 3, channels=8)
    rows = {0: (1e-6, -3e-6), 1: (-1, 1), 2: (0.031411, 0.062790), 3: (0.999507, 0.998027)}
    columns = {
        4: (0.866026, -0.866025, -2e-6),
        5: (-0.499999, -0.500001, 1),
        6: (0.020942, 0.041876, 0.062790),
        7: (0.999781, 0.999123, 0.998027),
    }
    for channel, values in rows.items():
        for x in range(3):
            assert encoding[channel, :, x].tolist() == pytest.approx(values, abs=2e-6)
    for channel, values in columns.items():
        for y in range(2):
            assert encoding[channel, y].tolist() == pytest.approx(values, abs=2e-6)


def test_every_cell_by_the_definition():
    height, width, channels = 3, 5, 12
    encoding = sine_position_encoding(height, width, channels)
    half = channels // 2
    for c in range(channels):
        for y in range(height):
            for x in range(width):
                value = (y + 1) / (height + 1e-6) if c < half else (x + 1) / (width + 1e-6)
                angle = value * 2 * math.pi / 10000 ** (2 * ((c % half) // 2) / half)
                expected = math.sin(angle) if c % half % 2 == 0 else math.cos(angle)
                assert float(encoding[c, y, x]) == pytest.approx(expected, abs=2e-6)


def test_odd_channels_are_refused():
    with pytest.raises(ValueError, match=r"must be even.*got 5"):
        check_even(5)
    with pytest.raises(ValueError, match="must be even"):
        TransformerEncoderPixelDecoder([3], conv_dim=33, norm=None)


def test_stays_float32():
    assert sine_position_encoding(2, 2, channels=4).dtype == torch.float32


def test_padded_maps_count_their_image_alone():
    sizes = [(3, 4), (2, 4), (1, 2), (3, 1)]
    padded = torch.ones(4, 3, 4, dtype=torch.bool)
    for cells, (height, width) in zip(padded, sizes, strict=True):
        cells[:height, :width] = False
    encodings = sine_position_encoding(3, 4, channels=8, padded=padded)
    assert encodings.shape == (4, 8, 3, 4)
    assert encodings.isfinite().all()
    for encoding, (height, width) in zip(encodings, sizes, strict=True):
        alone = sine_position_encoding(height, width, channels=8)
        torch.testing.assert_close(encoding[:, :height, :width], alone, atol=1e-7, rtol=1e-6)
