"""coco.json as FiftyOne reads it; the only use of that package."""

import numpy as np
import pytest
from pycocotools.coco import COCO

from mask_former.d2.prediction.running import predict


@pytest.mark.nightly
def test_boxes_and_masks_of_all_pictures(make_job, photos):
    reading = pytest.importorskip("fiftyone.utils.coco")
    job = make_job(formats=["coco"])
    predict(job, str(photos))
    file = str(job.output / "coco.json")
    coco, found = COCO(file), 0
    kinds = ["detections", "segmentations"]
    importer = reading.COCODetectionDatasetImporter(
        data_path=str(photos), labels_path=file, label_types=kinds
    )
    with importer:  # without a database, which FiftyOne wants for whole data sets
        for number, (_, size, labels) in enumerate(importer, start=1):
            annotations = coco.loadAnns(coco.getAnnIds(imgIds=[number]))
            regions = labels["segmentations"].detections
            for annotation, region in zip(annotations, regions, strict=True):
                expected = coco.annToMask(annotation).astype(bool)
                left, top = (
                    round(part * side)
                    for part, side in zip(
                        region.bounding_box, (size.width, size.height), strict=True
                    )
                )
                mask = np.zeros_like(expected)
                mask[top : top + len(region.mask), left : left + len(region.mask[0])] = region.mask
                assert np.array_equal(mask, expected)
                assert region.label == coco.cats[annotation["category_id"]]["name"]
                assert region.confidence == annotation["score"]
                found += 1
    assert found == len(coco.anns) > 0
