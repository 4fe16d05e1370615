"""What is read from the device: once for all results of an image, and nothing for scores."""

import pytest
import torch

from benchmarks.host_reads import HostReads, host_reads
from mask_former.functional import banding
from mask_former.functional.instances import instance_inference, pending_instances
from mask_former.functional.lazy_masks import lazy_masks
from mask_former.functional.panoptic import panoptic_inference, pending_panoptic
from mask_former.functional.semantic import general_semantic_inference, semantic_inference
from mask_former.functional.transfer import read_once
from tests.functional.cases import embedded_case, random_case, slow_general


def test_candidates_that_are_not_counted_first_give_the_same_with_one_read(monkeypatch):
    """As on an accelerator."""
    cases = [random_case(seed) for seed in range(120)]
    expected = [panoptic_inference(*case) for case in cases]
    monkeypatch.setattr(banding, "reading_is_free", lambda _: False)
    for case, (ids, segments) in zip(cases, expected, strict=True):
        with HostReads() as reads:
            found_ids, found = panoptic_inference(*case)
        assert reads.count == 1
        assert torch.equal(found_ids, ids)
        assert found == segments
    assert sum(len(segments) > 1 for _, segments in expected) > 20


def test_segments_and_instances_are_read_together(monkeypatch):
    monkeypatch.setattr(banding, "reading_is_free", lambda _: False)
    both = 0
    for seed in range(50):
        class_logits, mask_logits, things, *thresholds = random_case(seed)
        panoptic = class_logits, mask_logits, things, *thresholds
        instance = class_logits, mask_logits, things, 5
        with HostReads() as reads:
            (ids, segments), instances = read_once(
                pending_panoptic(*panoptic), pending_instances(*instance)
            )
        assert reads.count == 1
        expected_ids, expected_segments = panoptic_inference(*panoptic)
        assert torch.equal(ids, expected_ids)
        assert segments == expected_segments
        assert all(map(torch.equal, instances, instance_inference(*instance)))
        both += bool(segments) and len(instances.scores) > 0
    assert both > 10


def test_semantic_results_read_nothing(monkeypatch):
    monkeypatch.setattr(banding, "reading_is_free", lambda _: False)
    for seed in range(50):
        class_logits, mask_logits, _, *thresholds = random_case(seed)
        expected = slow_general(class_logits, mask_logits, *thresholds)
        with HostReads() as reads:
            semantic_inference(class_logits, mask_logits, (9, 5), labels=True)
            general = general_semantic_inference(class_logits, mask_logits, *thresholds)
        assert reads.count == 0
        torch.testing.assert_close(general, expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_waits_once_for_a_result():
    class_logits, embeds, sizes, things, thresholds = embedded_case(1)
    masks = lazy_masks(*(embed.cuda() for embed in embeds), *sizes)
    class_logits = class_logits.cuda()
    for waits, work in (
        (0, lambda: semantic_inference(class_logits, masks)),
        (0, lambda: general_semantic_inference(class_logits, masks, *thresholds)),
        (1, lambda: panoptic_inference(class_logits, masks, things, *thresholds)),
        (1, lambda: instance_inference(class_logits, masks, things, 5)),
        (
            1,
            lambda: read_once(
                pending_panoptic(class_logits, masks, things, *thresholds),
                pending_instances(class_logits, masks, things, 5),
            ),
        ),
    ):
        assert host_reads(work) == waits
