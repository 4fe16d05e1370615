"""Drawing panoptic segments over a picture of 1080p: the OpenCV overlay beside matplotlib's.

``overlay/SEGMENTS``: so many Voronoi cells, of which the first five are stuff.
"""

import cv2
import numpy as np

from benchmarks.criterion import voronoi_cells
from benchmarks.measure import Work
from mask_former.d2.visualization.drawing import FastVisualizer, SteadyVisualizer
from mask_former.d2.visualization.regions import Region

SIDES = ("matplotlib", "OpenCV")
CASES = ("overlay/17",)


def build(case: str, side: str) -> Work:
    """One side."""
    cv2.setNumThreads(1)
    rng, size = np.random.default_rng(0), (1080, 1920)
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    masks = voronoi_cells(int(case.split("/")[1]), *size).byte().numpy()
    colors = [tuple(color) for color in rng.random((len(masks), 3)).tolist()]
    regions = [
        Region(i, i, f"class {i}", i >= 5, colors[i], mask, score=0.9)
        for i, mask in enumerate(masks)
    ]
    visualizer = SteadyVisualizer if side == "matplotlib" else FastVisualizer

    def work() -> None:
        visualizer(image).draw({"segments_info": regions}).get_image()

    return work
