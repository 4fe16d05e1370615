#!/usr/bin/env python
"""What is learnt of the classes of shapes: the hue of a thing, its form, or both.

Shares of the pixels of things, in per cent, and the panoptic quality of each class in a picture
taken as one segment, from the file that an evaluation of semantic labels writes.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from tabulate import tabulate

from mask_former.commands.evaluate_pq_for_semantic_segmentation import evaluate
from mask_former.d2.data.datasets import register_descriptions
from mask_former.d2.data.description import read_description


def shares(confusion: np.ndarray, names: Sequence[str]) -> list[float]:
    """Per cent of the pixels of things that get a thing, one of the hue, of the form, of both.

    Args:
        confusion: [K, K]; pixels by true and by predicted class.
        names: of the K classes; a thing's has a hue and a form, ``red star``, others have one word.
    """
    things = np.array([" " in name for name in names])
    hues, forms = (np.array([name.split()[i] for name in names]) for i in (0, -1))
    pixels = confusion[np.ix_(things, things)]
    hue = np.equal.outer(hues[things], hues[things])
    form = np.equal.outer(forms[things], forms[things])
    counts = [pixels.sum(), pixels[hue].sum(), pixels[form].sum(), pixels[hue & form].sum()]
    return [100 * float(count) / float(confusion[things].sum()) for count in counts]


def main() -> None:
    """Prints a row for each file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("description", help="for example output/shapes20/dataset.yaml")
    parser.add_argument("predictions", nargs="+", type=Path, help="sem_seg_predictions.json")
    args = parser.parse_args()
    register_descriptions(CfgNode({"DATASETS": {"DESCRIPTIONS": [args.description]}}))
    data_set = f"{read_description(args.description).name}_val"
    names = MetadataCatalog.get(data_set).stuff_classes
    rows = []
    for file in args.predictions:
        counts = evaluate(data_set, file)
        quality = [100 * part for part in counts.quality()[:3]]
        rows.append([str(file), *shares(counts.confusion[:-1], names), *quality])
    columns = ["", "a thing", "the hue", "the form", "both", "PQ", "SQ", "RQ"]
    print(tabulate(rows, headers=columns, floatfmt=".1f", tablefmt="github"))


if __name__ == "__main__":
    main()
