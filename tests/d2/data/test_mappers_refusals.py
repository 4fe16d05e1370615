"""What mappers refuse of a sample."""

import pytest

from mask_former.d2.data.mappers import (
    MaskFormerPanopticDatasetMapper,
    MaskFormerSemanticDatasetMapper,
)
from mask_former.d2.errors import InputError

KEYWORDS = {"augmentations": [], "image_format": "RGB", "ignore_label": 255}
SEMANTIC = MaskFormerSemanticDatasetMapper(size_divisibility=-1, **KEYWORDS)
PANOPTIC = MaskFormerPanopticDatasetMapper(size_divisibility=-1, **KEYWORDS)


@pytest.mark.parametrize("mapper", [SEMANTIC, PANOPTIC])
def test_annotations_are_refused(semantic_sample, panoptic_sample, mapper):
    sample = {**semantic_sample, **panoptic_sample, "annotations": []}

    with pytest.raises(ValueError, match=r"image.png has annotations"):
        mapper(sample)


@pytest.mark.parametrize(
    ("mapper", "key"),
    [
        (SEMANTIC, "sem_seg_file_name"),
        (PANOPTIC, "pan_seg_file_name"),
        (PANOPTIC, "segments_info"),
    ],
)
def test_missing_key_names_the_image(semantic_sample, panoptic_sample, mapper, key):
    sample = {**semantic_sample, **panoptic_sample}
    del sample[key]

    with pytest.raises(ValueError, match=rf"image.png has no {key}"):
        mapper(sample)


@pytest.mark.parametrize("kind", ["label", "panoptic"])
def test_label_file_of_another_size(semantic_sample, panoptic_sample, save, image, kind):
    mapper = SEMANTIC if kind == "label" else PANOPTIC
    sample = semantic_sample if kind == "label" else panoptic_sample
    save("image.png", image[:20])

    with pytest.raises(InputError, match=r"(labels|panoptic).png is 40x30.*image.png is 40x20"):
        mapper(sample)
