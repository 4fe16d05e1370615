"""Patches embedded and merged, by hand."""

import torch

from mask_former.modeling.swin import PatchEmbed, PatchMerging


@torch.no_grad()
def test_patch_merging_by_hand(scrambled):
    merge = scrambled(PatchMerging(2))
    x = torch.randn(1, 3, 5, 2, dtype=torch.float64)
    merged = merge(x)
    assert merged.shape == (1, 2, 3, 4)
    cell = torch.cat([x[0, 0, 2], x[0, 1, 2], x[0, 0, 3], x[0, 1, 3]])
    torch.testing.assert_close(merged[0, 0, 1], merge.reduction(merge.norm(cell)))
    zero = torch.zeros(2, dtype=torch.float64)
    corner = torch.cat([x[0, 2, 4], zero, zero, zero])  # padded below and to the right
    torch.testing.assert_close(merged[0, 1, 2], merge.reduction(merge.norm(corner)))


@torch.no_grad()
def test_patch_embedding_pads_below_and_to_the_right(scrambled):
    embed = scrambled(PatchEmbed(4, 6, norm=True))
    image = torch.randn(1, 3, 6, 9, dtype=torch.float64)
    x = embed(image)
    assert x.shape == (1, 2, 3, 6)
    patch = torch.zeros(3, 4, 4, dtype=torch.float64)
    patch[:, :2, :1] = image[0, :, 4:, 8:]
    cell = torch.einsum("chw,ochw->o", patch, embed.proj.weight) + embed.proj.bias
    torch.testing.assert_close(x[0, 1, 2], embed.norm(cell))
