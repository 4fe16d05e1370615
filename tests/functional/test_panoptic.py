"""Panoptic inference against a slow, obvious reference, by hand, and beside semantic inference."""

import pytest
import torch

from benchmarks import reference
from benchmarks.measure import peak_mib
from mask_former.functional import lazy_masks as lazy
from mask_former.functional.lazy_masks import lazy_masks
from mask_former.functional.panoptic import panoptic_inference
from mask_former.functional.semantic import semantic_inference
from tests.functional.cases import CLASS_LOGITS, MASK_LOGITS, embedded_case, random_case


def slow_panoptic(class_logits, mask_logits, things, object_threshold, overlap_threshold):
    """General inference of section 3.4, a query and a pixel at a time."""
    _, h, w = mask_logits.shape
    no_object = class_logits.shape[1] - 1
    kept = []
    for z, m in zip(class_logits.softmax(1), mask_logits.sigmoid(), strict=True):
        score, label = float(z.max()), int(z.argmax())
        if label != no_object and z.max() > object_threshold:
            kept.append((score, label, m, z.max() * m))
    ids = torch.zeros(h, w, dtype=torch.int32)
    segments, stuff = [], {}
    if not kept:
        return ids, segments
    owner = [
        [max(range(len(kept)), key=lambda k: float(kept[k][3][y, x])) for x in range(w)]
        for y in range(h)
    ]
    for k, (score, label, mask, _) in enumerate(kept):
        pixels = [(y, x) for y in range(h) for x in range(w) if owner[y][x] == k]
        original = sum(float(p) >= 0.5 for p in mask.flatten())
        if not pixels or not original or len(pixels) / original < overlap_threshold:
            continue
        if label in stuff:
            segment = stuff[label]
            segment["area"] += len(pixels)
            segment["score"] = max(segment["score"], score)
        else:
            segment = {
                "id": len(segments) + 1,
                "isthing": label in things,
                "category_id": label,
                "score": score,
                "area": len(pixels),
            }
            segments.append(segment)
            if label not in things:
                stuff[label] = segment
        for y, x in pixels:
            ids[y, x] = segment["id"]
    return ids, segments


def reference_result(case, **results):
    class_logits, (mask_embed, pixel_embed), sizes, things, thresholds = case
    return reference.results(
        class_logits,
        torch.einsum("qd,dhw->qhw", mask_embed, pixel_embed),
        *sizes,
        thing_ids=frozenset(things),
        object_mask_threshold=thresholds[0],
        overlap_threshold=thresholds[1],
        **{"semantic": False, "panoptic": False} | results,
    )


def three_keys(segments):
    return [{k: s[k] for k in ("id", "isthing", "category_id")} for s in segments]


def test_panoptic_published_values():
    ids, segments = panoptic_inference(CLASS_LOGITS, MASK_LOGITS, {1}, 0.4, 0.5)
    assert ids.tolist() == [[1, 2], [1, 2]]
    assert [(s["id"], s["isthing"], s["category_id"]) for s in segments] == [
        (1, False, 0),
        (2, True, 1),
    ]
    ids, segments = panoptic_inference(CLASS_LOGITS, MASK_LOGITS, {1}, 0.6, 0.5)
    assert ids.tolist() == [[1, 1], [1, 1]]
    assert [(s["id"], s["isthing"], s["category_id"]) for s in segments] == [(1, True, 1)]


def test_panoptic_equals_the_slow_reference_on_many_random_cases():
    found = set()
    for seed in range(600):
        case = random_case(seed)
        ids, segments = panoptic_inference(*case)
        expected_ids, expected = slow_panoptic(*case)
        assert ids.dtype == torch.int32
        assert torch.equal(ids, expected_ids), seed
        assert [{**s, "score": 0} for s in segments] == [{**s, "score": 0} for s in expected], seed
        assert [s["score"] for s in segments] == pytest.approx([s["score"] for s in expected])
        found.add((len(segments) > 1, bool((ids == 0).any()), any(s["isthing"] for s in segments)))
    assert len(found) >= 6, "the random cases have become one-sided"


def test_areas_are_those_of_the_map_and_ids_count_from_one():
    for seed in range(100):
        ids, segments = panoptic_inference(*random_case(seed))
        assert [s["id"] for s in segments] == list(range(1, len(segments) + 1))
        assert all(s["area"] == int((ids == s["id"]).sum()) for s in segments)


def test_nothing_kept_gives_zeros_and_no_segments():
    sure_of_nothing = torch.tensor([[0.0, 0.0, 9.0]])
    ids, segments = panoptic_inference(sure_of_nothing, torch.zeros(1, 2, 3), {0}, 0.0, 0.0)
    assert ids.dtype == torch.int32
    assert ids.tolist() == [[0, 0, 0], [0, 0, 0]]
    assert segments == []


def test_the_score_must_exceed_the_threshold():
    # Two classes and "no object" with equal logits share one third each.
    class_logits = torch.zeros(1, 3)
    probability = float(class_logits.softmax(1).max())
    masks = torch.ones(1, 1, 1)
    assert panoptic_inference(class_logits, masks, (), probability, 0.0)[1] == []
    assert len(panoptic_inference(class_logits, masks, (), probability - 1e-6, 0.0)[1]) == 1


def test_stuff_is_merged_and_things_are_not():
    class_logits = torch.tensor([[9.0, 0.0, 0.0]]).repeat(2, 1)
    masks = torch.tensor([[[5.0, -5.0]], [[-5.0, 5.0]]])
    ids, segments = panoptic_inference(class_logits, masks, (), 0.5, 0.5)
    assert ids.tolist() == [[1, 1]]
    assert [s["area"] for s in segments] == [2]
    ids, segments = panoptic_inference(class_logits, masks, {0}, 0.5, 0.5)
    assert ids.tolist() == [[1, 2]]
    assert [s["area"] for s in segments] == [1, 1]


def test_an_occluded_query_leaves_void():
    # The second query owns one of the three pixels that its mask covers.
    class_logits = torch.tensor([[9.0, 0.0, 0.0], [0.0, 5.0, 0.0]])
    masks = torch.tensor([[[9.0, 9.0, -9.0]], [[1.0, 1.0, 1.0]]])
    ids, segments = panoptic_inference(class_logits, masks, {0, 1}, 0.5, 0.5)
    assert ids.tolist() == [[1, 1, 0]]
    assert [s["category_id"] for s in segments] == [0]
    ids, _ = panoptic_inference(class_logits, masks, {0, 1}, 0.5, 1 / 3)
    assert ids.tolist() == [[1, 1, 2]]


@pytest.mark.parametrize("queries", [255, 256, 300])
def test_there_may_be_more_queries_than_a_byte_counts(queries):
    """Each owns a pixel of its own, the first and the last row among them."""
    g = torch.Generator().manual_seed(0)
    pixels = torch.randperm(320, generator=g)[:queries]
    masks = torch.full((queries, 320), -5.0).index_put_(
        (torch.arange(queries), pixels), torch.tensor(5.0)
    )
    case = torch.tensor([[9.0, 0.0]]).repeat(queries, 1), masks.view(queries, 16, 20)
    ids, segments = panoptic_inference(*case, {0}, 0.5, 0.0)
    assert len(segments) == queries
    assert torch.equal(ids.flatten()[pixels], torch.arange(1, queries + 1, dtype=torch.int32))
    assert segments[0]["area"] == 320 - queries + 1  # what nobody claims goes to the first


@pytest.mark.parametrize("where", ["one mask", "one pixel", "all"])
def test_masks_that_are_not_numbers_give_a_map_of_the_segments(where):
    class_logits = torch.tensor([[9.0, 0.0, 0.0], [0.0, 9.0, 0.0], [9.0, 0.0, 0.0]])
    mask_logits = torch.full((3, 4, 5), 3.0)
    mask_logits[:, :, 2:] = torch.tensor([-3.0, 5.0, -5.0])[:, None, None]
    expected, _ = panoptic_inference(class_logits, mask_logits, {0}, 0.5, 0.0)
    assert expected[0].tolist() == [1, 1, 2, 2, 2]
    parts = {"one mask": (1,), "one pixel": (slice(None), 0, 0), "all": (slice(None),)}
    mask_logits[parts[where]] = torch.nan
    ids, segments = panoptic_inference(class_logits, mask_logits, {0}, 0.5, 0.0)
    assert set(ids.unique().tolist()) <= {0, *(segment["id"] for segment in segments)}
    if where == "one pixel":
        assert torch.equal(ids.flatten()[1:], expected.flatten()[1:])


def regions(ids, segments):
    """Class and pixels of each segment, in an order of their own."""
    return sorted((s["category_id"], (ids == s["id"]).flatten().tolist()) for s in segments)


def test_order_of_queries_changes_names_only():
    g = torch.Generator().manual_seed(1)
    merged = 0
    for seed in (seed for seed in range(200) if seed % 5):  # the others have ties
        class_logits, mask_logits, things, *thresholds = random_case(seed)
        order = torch.randperm(len(class_logits), generator=g)
        others = class_logits[order], mask_logits[order]
        found = panoptic_inference(class_logits, mask_logits, things, *thresholds)
        assert regions(*panoptic_inference(*others, things, *thresholds)) == regions(*found)
        every_class = range(class_logits.shape[1])
        unmerged = panoptic_inference(class_logits, mask_logits, every_class, *thresholds)
        merged += len(found[1]) < len(unmerged[1])
        torch.testing.assert_close(
            semantic_inference(*others), semantic_inference(class_logits, mask_logits)
        )
    assert merged > 5


@pytest.mark.parametrize("cached", [1, 60, 10**6])
def test_results_from_embeddings_equal_the_plain_reference(monkeypatch, cached):
    """Over geometry, classes, thresholds and heights of bands."""
    monkeypatch.setattr(lazy, "CACHED", cached)
    segments_found = 0
    for seed in range(350):
        case = embedded_case(seed)
        class_logits, embeds, (padded, size, output), things, thresholds = case
        first = lazy_masks(*embeds, padded, size, output)
        plain = reference_result(case, semantic=True, panoptic=True)
        ids, segments = panoptic_inference(class_logits, first, things, *thresholds)
        assert torch.equal(ids, plain["panoptic_seg"][0]), seed
        assert three_keys(segments) == plain["panoptic_seg"][1]
        scores = semantic_inference(class_logits, first)
        torch.testing.assert_close(scores, plain["sem_seg"], msg=str(seed))
        # Scores formed at the size of the image, then resized.
        plain = reference_result(case, semantic=True)
        scores = semantic_inference(class_logits, lazy_masks(*embeds, padded, size), output)
        torch.testing.assert_close(scores, plain["sem_seg"], msg=str(seed))
        segments_found += len(segments)
    assert segments_found > 150


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_logits_give_single_precision(dtype):
    class_logits, mask_logits, things, *thresholds = random_case(16)
    halves = class_logits.to(dtype), mask_logits.to(dtype)
    scores = semantic_inference(*halves)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, semantic_inference(*(half.float() for half in halves)))
    ids, _ = panoptic_inference(*halves, things, *thresholds)
    expected = panoptic_inference(*(half.float() for half in halves), things, *thresholds)[0]
    assert torch.equal(ids, expected)


def test_memory_is_bounded_by_results_and_logits():
    """Bands are small: scores and one band; the segment ids twice, and once more as bytes."""
    g = torch.Generator().manual_seed(0)
    class_logits = torch.randn(40, 20, generator=g)
    class_logits[:, -1] += 9
    class_logits[:6, 3] += 18
    embeds = torch.randn(40, 8, generator=g), torch.randn(8, 192, 128, generator=g)
    output = (768, 512)
    masks = lazy_masks(*embeds, output, output)
    pixels, logits = output[0] * output[1], 40 * 192 * 128
    scores = peak_mib(lambda: semantic_inference(class_logits, masks))
    assert scores * 2**20 < 4 * (19 * pixels + logits + 4 * 2**20)
    ids = peak_mib(lambda: panoptic_inference(class_logits, masks, (), 0.5, 0.0))
    assert ids * 2**20 < 0.15 * 3 * 4 * 40 * pixels  # of three maps of all masks
    labels = peak_mib(lambda: semantic_inference(class_logits, masks, labels=True))
    assert labels * 2**20 < 8 * pixels + 4 * (logits + 4 * 2**20)


def test_the_defaults_are_the_papers_thresholds():
    case = random_case(16)
    ids, segments = panoptic_inference(*case[:3], 0.8, 0.8)
    found = panoptic_inference(*case[:3])
    assert torch.equal(found[0], ids)
    assert found[1] == segments


def test_a_batch_is_told():
    with pytest.raises(ValueError, match=r"takes one image: class logits \[Q, K\+1\] .* batch"):
        panoptic_inference(torch.randn(2, 5, 4), torch.randn(2, 5, 8, 8), {1})
