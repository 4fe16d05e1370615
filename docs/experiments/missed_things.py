#!/usr/bin/env python
"""Which things of shapes a panoptic model misses, by what they touch.

A thing is found where a segment of its class has an IoU above 0.5 with it, as in panoptic quality.
Another one is merged where a segment of its class covers more than half of it and lies elsewhere
for two fifths or more.
"""

import argparse
import json
from collections import Counter
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


def main() -> None:
    """Predicts the split, and counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", help="for example output/shapes_demo/train/model_final.pth")
    parser.add_argument("data", type=Path, help="for example output/shapes_demo/data/shapes")
    parser.add_argument("--split", default="val")
    args = parser.parse_args()
    predict = load_predictor(args.weights)
    content = json.loads((args.data / f"panoptic_{args.split}.json").read_text(encoding="utf-8"))
    things = {entry["id"] for entry in content["categories"] if entry["isthing"]}
    counts: Counter[tuple[str, str]] = Counter()
    for annotation in content["annotations"]:
        stem = Path(annotation["file_name"]).stem
        image = cv2.imread(str(args.data / "images" / args.split / f"{stem}.jpg"))
        found, segments = predict(image)["panoptic_seg"]
        file = args.data / f"panoptic_{args.split}" / annotation["file_name"]
        truth = rgb_to_id(np.asarray(Image.open(file)))
        listed = {each["id"]: each["category_id"] for each in annotation["segments_info"]}
        classes = {id_: category for id_, category in listed.items() if category in things}
        masks = {s["id"]: found.numpy() == s["id"] for s in segments}
        of_class = {s["id"]: s["category_id"] for s in segments}
        for thing, category in classes.items():
            kind = touched(truth, thing, classes)
            mask = truth == thing
            own = [masks[id_] for id_, label in of_class.items() if label == category]
            shared = [(mask & other).sum() for other in own]
            counts[kind, "all"] += 1
            if any(s / (mask | o).sum() > 0.5 for s, o in zip(shared, own, strict=True)):
                counts[kind, "found"] += 1
            elif any(
                s > mask.sum() / 2 and s < 0.6 * o.sum() for s, o in zip(shared, own, strict=True)
            ):
                counts[kind, "merged"] += 1
    rows = [[kind, *(counts[kind, what] for what in ("all", "found", "merged"))] for kind in KINDS]
    print(tabulate(rows, headers=["it touches", "things", "found", "merged"], tablefmt="github"))


if __name__ == "__main__":
    main()
