"""Maps as sequences, and when the tokens carry a mask of padding."""

import torch

from mask_former.modeling.position_encoding import image_tokens, sine_position_encoding
from mask_former.structures import Padding


def test_tokens_are_row_by_row():
    x = torch.arange(2 * 4 * 3 * 4.0).view(2, 4, 3, 4)
    tokens = image_tokens(x).x
    assert tokens.shape == (2, 12, 4)
    assert tokens[1, 5].tolist() == x[1, :, 1, 1].tolist()


def test_positions_have_the_type_of_the_map_but_the_precision_of_float32():
    pos = image_tokens(torch.zeros(3, 8, 2, 5, dtype=torch.float64)).pos
    assert pos.dtype == torch.float64
    assert torch.equal(pos[0, 7].float(), sine_position_encoding(2, 5, 8)[:, 1, 2])


def test_tokens_of_maps_without_a_padded_cell():
    """As without padding: no mask that the kernels of attention would have to look at."""
    maps = torch.randn(3, 8, 3, 4, generator=torch.Generator().manual_seed(0))
    expected = image_tokens(maps)
    for padding in (Padding([(24, 32)] * 3, (24, 32)), Padding([(17, 25)] * 3, (24, 32))):
        x, pos, padded = image_tokens(maps, padding)
        assert torch.equal(x, expected.x)
        assert torch.equal(pos, expected.pos)
        assert padded is None


def test_whether_a_cell_is_padded_is_not_asked_of_the_device():
    """The meta device has no values to give."""
    maps = torch.zeros(3, 8, 3, 4, device="meta")
    assert image_tokens(maps, Padding([(24, 32)] * 3, (24, 32))).padded is None
    padding = Padding([(24, 32), (17, 9), (8, 30)], (24, 32))
    assert image_tokens(maps, padding).padded.shape == (3, 12)
