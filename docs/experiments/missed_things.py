#!/usr/bin/env python
"""Which things of shapes a panoptic model misses, by what they touch.

A thing is found where a segment of its class has an IoU above 0.5 with it, as in panoptic quality.
Another one is merged where a segment of its class covers more than half of it and lies elsewhere
for two fifths or more.
"""

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from tabulate import tabulate

from mask_former.d2.data.reading import rgb_to_id
from mask_former.d2.predictor import load_predictor

KINDS = ("nothing of the kind", "a thing of another class", "a thing of its own class")


def touched(ids: np.ndarray, thing: int, classes: dict[int, int]) -> str:
    """What lies within two pixels of a thing in the ids [H, W] of the truth."""
    mask = (ids == thing).astype(np.uint8)
    around = ids[cv2.dilate(mask, np.ones((5, 5), np.uint8)) > mask]
    near = {classes[other] for other in np.unique(around).tolist() if other in classes}
    return KINDS[2] if classes[thing] in near else KINDS[1] if near else KINDS[0]


def fate(mask: np.ndarray, others: Sequence[np.ndarray]) -> str:
    """Whether a thing [H, W] is found, merged or missed, by the segments [H, W] of its class."""
    shares = [((mask & other).sum(), other) for other in others]
    if any(shared / (mask | other).sum() > 0.5 for shared, other in shares):
        return "found"
    if any(mask.sum() / 2 < shared < 0.6 * other.sum() for shared, other in shares):
        return "merged"
    return "missed"


def main() -> None:
    """Predicts the held-out pictures, and counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", help="for example output/shapes_demo/train/model_final.pth")
    parser.add_argument("data", type=Path, help="for example output/shapes_demo/data/shapes")
    args = parser.parse_args()
    predict = load_predictor(args.weights)
    content = json.loads((args.data / "panoptic_val.json").read_text(encoding="utf-8"))
    things = {entry["id"] for entry in content["categories"] if entry["isthing"]}
    counts: Counter[tuple[str, str]] = Counter()
    for annotation in content["annotations"]:
        stem = Path(annotation["file_name"]).stem
        image = cv2.imread(str(args.data / "images" / "val" / f"{stem}.jpg"))
        found, segments = predict(image)["panoptic_seg"]
        file = args.data / "panoptic_val" / annotation["file_name"]
        truth = rgb_to_id(np.asarray(Image.open(file)))
        listed = {each["id"]: each["category_id"] for each in annotation["segments_info"]}
        classes = {id_: category for id_, category in listed.items() if category in things}
        for thing, category in classes.items():
            own = [found.numpy() == s["id"] for s in segments if s["category_id"] == category]
            kind = touched(truth, thing, classes)
            counts[kind, "all"] += 1
            counts[kind, fate(truth == thing, own)] += 1
    rows = [[kind, *(counts[kind, what] for what in ("all", "found", "merged"))] for kind in KINDS]
    print(tabulate(rows, headers=["it touches", "things", "found", "merged"], tablefmt="github"))


if __name__ == "__main__":
    main()
