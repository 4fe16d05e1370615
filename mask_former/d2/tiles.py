"""Pictures of any size, a tile at a time: results of overlapping tiles become one result.

Each tile goes through the model as a picture of its own, so that memory depends on the tile, but
for the picture and the result themselves. Where tiles overlap, semantic scores are blended, and
segments and instances that agree are joined.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor

from ..functional.lazy_masks import Size
from ..functional.panoptic import Segment
from ..structures import InferenceOptions

Sample = dict[str, Any]
Result = dict[str, Any]

_AGREE = 0.5  # the IoU in the overlap above which two masks are taken for one thing's


class Span(NamedTuple):
    """What a tile covers along an axis, in pixels."""

    source: slice
    """Of the picture."""
    start: int
    """The first pixel of the result."""
    stop: int
    """The last pixel of the result + 1."""
    shared: int
    """Pixels at the start that the tile before covers too."""
    next: int
    """Where the next tile starts in the result; the last tile's own stop."""
    owned: slice
    """Of the result: up to the middle of the overlaps, so that one tile owns each pixel."""
    shares: Tensor
    """[stop - start]; weights that fall to both ends; in each pixel those of all tiles sum to 1."""


Tile = tuple[Span, Span]
"""Rows and columns."""


def spans(length: int, output: int, side: int, overlap: int) -> list[Span]:
    """The tiles along an axis: as few as cover it, at even distances.

    Args:
        length: of the picture along the axis.
        output: of the result.
        side: of a tile in the picture.
        overlap: of neighbours in the picture, at least.
    """
    number = 1 + max(0, -(-(length - side) // (side - overlap)))
    side, scale = min(side, length), output / length
    sources = [i * (length - side) // max(number - 1, 1) for i in range(number)]
    starts = [min(round(source * scale), output - 1) for source in sources]
    # A tile has a pixel at least, however small the result is.
    ends = [round((source + side) * scale) for source in sources]
    stops = [max(stop, start + 1) for start, stop in zip(starts, ends, strict=True)]
    total, tents = torch.zeros(output), []
    for start, stop in zip(starts, stops, strict=True):
        rising = torch.arange(0.5, stop - start)
        tents.append(torch.minimum(rising, rising.flip(0)))
        total[start:stop] += tents[-1]
    shared = [0, *(stop - start for stop, start in zip(stops, starts[1:], strict=False))]
    middles = [start + n // 2 for start, n in zip(starts, shared, strict=True)]
    cuts = [*middles, output]
    following = [*starts[1:], output]
    return [
        Span(
            slice(sources[i], sources[i] + side),
            starts[i],
            stops[i],
            shared[i],
            following[i],
            slice(cuts[i], cuts[i + 1]),
            tents[i] / total[starts[i] : stops[i]],
        )
        for i in range(number)
    ]


def fits(sample: Sample, options: InferenceOptions) -> bool:
    """Whether the image of a sample is no larger than a tile."""
    return max(sample["image"].shape[-2:]) <= options.tiles[0]


def tiled_result(
    model: Callable[[Sample], Result], sample: Sample, output: Size, options: InferenceOptions
) -> Result:
    """The result of a picture that is larger than a tile.

    Instances are whole masks, up to ``max_instances`` of the size of the picture.

    Args:
        model: the result of a tile; its ``sem_seg`` are scores.
        sample: ``image`` [3, H, W].
        output: height and width of the result.
        options: which results to give; ``tiles`` are the side and the least overlap.
    """
    height, width = sample["image"].shape[-2:]
    all_rows = spans(height, output[0], *options.tiles)
    all_columns = spans(width, output[1], *options.tiles)
    joined: dict[str, _Scores | _Segments | _Masks] = {}
    if options.semantic:
        waiting = max(rows.stop - rows.next for rows in all_rows)
        joined["sem_seg"] = _Scores(output, waiting, options.semantic_labels)
    if options.panoptic:
        joined["panoptic_seg"] = _Segments(output)
    if options.instance:
        joined["instances"] = _Masks(output, options.max_instances)
    for tile in ((rows, columns) for rows in all_rows for columns in all_columns):
        rows, columns = tile
        image = sample["image"][:, rows.source, columns.source]
        size = {"height": rows.stop - rows.start, "width": columns.stop - columns.start}
        for kind, found in model({"image": image, **size}).items():
            joined[kind].add(tile, found)
    return {kind: whole.result() for kind, whole in joined.items()}


class _Scores:
    """Semantic scores [K, H, W], or labels [H, W], for which no scores of the picture are held.

    A part is finished with its last tile. What waits for the tile on the right is as high as a
    tile, what waits for the tiles below as wide as the picture, and each as narrow as the overlap.
    """

    def __init__(self, output: Size, waiting: int, labels: bool) -> None:
        """Of the size of the output; so many rows at most wait for the tiles below."""
        self._output, self._waiting, self._labels = output, waiting, labels
        self._right: Tensor

    def add(self, tile: Tile, scores: Tensor) -> None:
        """Blends the scores [K, h, w] of a tile in."""
        rows, columns = tile
        if rows.start == columns.start == 0:
            num_classes, (height, width) = len(scores), self._output
            size = (height, width) if self._labels else (num_classes, height, width)
            dtype = torch.int64 if self._labels else scores.dtype
            self._found = scores.new_empty(size, dtype=dtype)
            self._below = scores.new_empty(num_classes, self._waiting, width)
        # Where there is no overlap the share is 1, and the score stays the tile's bit for bit.
        scores = scores * (rows.shares[:, None] * columns.shares).to(scores)
        if columns.shared:
            scores[:, :, : columns.shared] += self._right
        finished = columns.next - columns.start
        self._right = scores[:, :, finished:].clone()
        scores, place = scores[:, :, :finished], slice(columns.start, columns.next)
        scores[:, : rows.shared] += self._below[:, : rows.shared, place]
        finished = rows.next - rows.start
        self._below[:, : rows.stop - rows.next, place] = scores[:, finished:]
        block = scores[:, :finished]
        block = block.max(dim=0).indices if self._labels else block
        self._found[..., rows.start : rows.next, place] = block

    def result(self) -> Tensor:
        """The scores, or the labels."""
        return self._found


class _Groups:
    """Union-find: numbers, each at first a group of its own, and which of them are one."""

    def __init__(self) -> None:
        self._parents: list[int] = []

    def new(self) -> int:
        """A number, from 0 on, that belongs to no other."""
        self._parents.append(len(self._parents))
        return self._parents[-1]

    def first(self, number: int) -> int:
        """The lowest number of a group."""
        while (parent := self._parents[number]) != number:
            self._parents[number] = self._parents[parent]
            number = parent
        return number

    def join(self, one: int, other: int) -> None:
        """Makes two groups one."""
        low, high = sorted((self.first(one), self.first(other)))
        self._parents[high] = low


class _Segments:
    """Panoptic segments: each pixel has the segment of the tile in whose middle it is most."""

    def __init__(self, output: Size) -> None:
        self._output = output
        self._groups = _Groups()
        self._segments: list[Segment] = []
        self._stuff: dict[int, int] = {}
        self._recent: list[tuple[Tile, Tensor]] = []

    def add(self, tile: Tile, found: tuple[Tensor, list[Segment]]) -> None:
        """Takes the ids [h, w], 0 for void, and the segments of a tile."""
        rows, columns = tile
        ids, segments = found
        if rows.start == columns.start == 0:
            self._found = ids.new_zeros(self._output)
        # Our numbers are from 1 on, too; areas are counted as pixels are owned.
        numbers = [0, *(self._number(segment) + 1 for segment in segments)]
        ids = ids.new_tensor(numbers)[ids.flatten()].view_as(ids)
        self._recent = [(t, i) for t, i in self._recent if t[0].stop > rows.start]
        for other, other_ids in self._recent:
            if region := _overlap(other, tile):
                self._compare(other_ids[_within(region, other)], ids[_within(region, tile)])
        self._recent.append((tile, ids))
        owned = ids[_within((rows.owned, columns.owned), tile)]
        self._found[rows.owned, columns.owned] = owned
        for number, area in zip(*map(Tensor.tolist, owned.unique(return_counts=True)), strict=True):
            if number:
                self._segments[number - 1]["area"] += area

    def _number(self, segment: Segment) -> int:
        """A new number of a tile's segment; stuff has that which its class has already."""
        category = segment["category_id"]
        if not segment["isthing"] and category in self._stuff:
            known = self._segments[self._stuff[category]]
            known["score"] = max(known["score"], segment["score"])
            return self._stuff[category]
        number = self._groups.new()
        self._segments.append(Segment(**{**segment, "area": 0}))
        if not segment["isthing"]:
            self._stuff[category] = number
        return number

    def _compare(self, ids: Tensor, others: Tensor) -> None:
        """Joins things of two tiles, given by the numbers [h, w] of both in their overlap."""
        base = len(self._segments) + 1
        codes, counts = (ids.flatten().long() * base + others.flatten()).unique(return_counts=True)
        areas: Counter[int] = Counter()
        pairs = []
        for code, count in zip(codes.tolist(), counts.tolist(), strict=True):
            pair = divmod(code, base)
            areas.update(dict.fromkeys(pair, count))
            pairs.append((pair, count))
        for (one, other), both in pairs:
            # In a tile nothing overlaps, so that above a half a thing has one partner at most.
            if one and other and both > _AGREE * (areas[one] + areas[other] - both):
                first, second = self._segments[one - 1], self._segments[other - 1]
                if first["isthing"] and first["category_id"] == second["category_id"]:
                    self._groups.join(one - 1, other - 1)

    def result(self) -> tuple[Tensor, list[Segment]]:
        """Ids [H, W] (int32) from 1 on, and the segments; a joined one has the highest score."""
        joined: dict[int, Segment] = {}
        for number, segment in enumerate(self._segments):
            whole = joined.setdefault(self._groups.first(number), segment)
            if whole is not segment:
                whole["area"] += segment["area"]
                whole["score"] = max(whole["score"], segment["score"])
        kept = {number: segment for number, segment in joined.items() if segment["area"]}
        for new_id, segment in enumerate(kept.values(), start=1):
            segment["id"] = new_id
        new_ids = [joined[self._groups.first(i)]["id"] for i in range(len(self._segments))]
        table = self._found.new_tensor([0, *new_ids])
        for row in self._found:  # not at once, as indices are in need of more memory
            row.copy_(table[row])
        return self._found, list(kept.values())


class _Piece(NamedTuple):
    """What a tile has of an instance."""

    mask: Tensor
    """[h, w]; bool, of its box."""
    row: int
    """Of the result, at which the mask begins."""
    column: int
    """Of the result, at which the mask begins."""
    label: int
    score: float


class _Masks:
    """Instances: the pieces of an instance are joined as they stand, not cut at the overlap."""

    def __init__(self, output: Size, max_instances: int) -> None:
        self._output, self._max_instances = output, max_instances
        self._groups = _Groups()
        self._pieces: list[_Piece] = []
        self._recent: list[tuple[Tile, Instances, list[int]]] = []

    def add(self, tile: Tile, found: Instances) -> None:
        """Takes the instances of a tile."""
        rows, columns = tile
        numbers = [self._groups.new() for _ in range(len(found))]
        self._like = found.scores
        table = zip(
            found.pred_boxes.tensor.tolist(),
            found.pred_classes.tolist(),
            found.scores.tolist(),
            found.pred_masks,
            strict=True,
        )
        for box, label, score, mask in table:
            x0, y0, x1, y1 = map(int, box)
            part = mask[y0:y1, x0:x1].clone()  # not a view, which would keep the whole mask
            self._pieces.append(_Piece(part, rows.start + y0, columns.start + x0, label, score))
        self._recent = [entry for entry in self._recent if entry[0][0].stop > rows.start]
        for other, instances, others in self._recent:
            if region := _overlap(other, tile):
                masks = found.pred_masks[:, *_within(region, tile)]
                other_masks = instances.pred_masks[:, *_within(region, other)]
                same = found.pred_classes[:, None] == instances.pred_classes
                for i, j in _partners(_ious(masks, other_masks) * same):
                    self._groups.join(numbers[i], others[j])
        self._recent.append((tile, found, numbers))

    def result(self) -> Instances:
        """The best of all, best first; a joined one has the highest score."""
        groups: dict[int, list[_Piece]] = {}
        for number, piece in enumerate(self._pieces):
            groups.setdefault(self._groups.first(number), []).append(piece)
        best = sorted(groups.values(), key=lambda pieces: -max(p.score for p in pieces))
        best = best if self._max_instances < 0 else best[: self._max_instances]
        masks = torch.zeros(len(best), *self._output, dtype=torch.bool, device=self._like.device)
        boxes = self._like.new_zeros(len(best), 4, dtype=torch.float32)
        for mask, box, pieces in zip(masks, boxes, best, strict=True):
            corners = []
            for part, row, column, *_ in pieces:
                stop_row, stop_column = row + part.shape[0], column + part.shape[1]
                mask[row:stop_row, column:stop_column] |= part
                corners.append((-column, -row, stop_column, stop_row))
            x0, y0, x1, y1 = map(max, zip(*corners, strict=True))
            box[:] = box.new_tensor([-x0, -y0, x1, y1])
        return Instances(
            self._output,
            pred_masks=masks,
            pred_boxes=Boxes(boxes),
            scores=self._like.new_tensor([max(p.score for p in pieces) for pieces in best]),
            pred_classes=torch.tensor(
                [pieces[0].label for pieces in best], dtype=torch.int64, device=self._like.device
            ),
        )


def _ious(masks: Tensor, others: Tensor) -> Tensor:
    """IoU [n, m] of the masks [n, h, w] and [m, h, w] (bool); 0 where both are empty."""
    masks, others = masks.flatten(1).float(), others.flatten(1).float()
    both = masks @ others.T
    either = masks.sum(dim=1)[:, None] + others.sum(dim=1) - both
    return both / either.clamp(min=1)


def _partners(ious: Tensor) -> list[tuple[int, int]]:
    """Pairs above a half, best first; each of the n and each of the m takes part once."""
    pairs = (ious > _AGREE).nonzero().tolist()
    values = ious.tolist()
    chosen: list[tuple[int, int]] = []
    for i, j in sorted(pairs, key=lambda pair: -values[pair[0]][pair[1]]):
        if all(i != one and j != other for one, other in chosen):
            chosen.append((i, j))
    return chosen


def _overlap(one: Tile, other: Tile) -> tuple[slice, slice] | None:
    """Where two tiles overlap in the result."""
    rows, columns = (
        slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(one, other, strict=True)
    )
    overlaps = rows.start < rows.stop and columns.start < columns.stop
    return (rows, columns) if overlaps else None


def _within(region: tuple[slice, slice], tile: Tile) -> tuple[slice, slice]:
    """A region of the result, seen from the upper left corner of a tile."""
    rows, columns = (
        slice(part.start - span.start, part.stop - span.start)
        for part, span in zip(region, tile, strict=True)
    )
    return rows, columns
