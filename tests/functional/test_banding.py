"""Bands of rows that fit a cache, and the leading entries of a choice."""

import torch

from mask_former.functional import banding
from mask_former.functional.banding import bands, leading


def test_bands_cover_all_rows_once_and_keep_to_their_size(monkeypatch):
    for cached, height in ((1, 5), (100, 7), (10**6, 40)):
        monkeypatch.setattr(banding, "CACHED", cached)
        monkeypatch.setattr(banding, "SMALLEST", 1)
        found = list(bands((height, 10), 3, 20, torch.device("cpu")))
        assert [y for start, stop in found for y in range(start, stop)] == list(range(height))
        most = max(stop - start for start, stop in found)
        assert most == 1 or most * 3 * 10 <= min(cached, 20 * height)
    # In small images not so small that calling operators is what takes the time.
    monkeypatch.setattr(banding, "SMALLEST", 90)
    assert list(bands((9, 10), 3, 1, torch.device("cpu"))) == [(0, 3), (3, 6), (6, 9)]
    on_gpu = list(bands((640, 640), 100, 150, torch.device("cuda")))
    assert len(on_gpu) < 10


def test_leading_entries_keep_their_order(monkeypatch):
    chosen = torch.tensor([False, True, False, True, True])
    assert leading(chosen, 2).tolist() == [1, 3, 4]  # a CPU has room for exactly those
    assert leading(~chosen & chosen, 2).tolist() == [0]
    monkeypatch.setattr(banding, "reading_is_free", lambda _: False)
    assert leading(chosen, 2).tolist() == [1, 3]
    assert leading(chosen, 5).tolist() == [1, 3, 4, 0, 2]
