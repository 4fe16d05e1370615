"""The original's path of COCO-Stuff's classes."""

from ...d2.data.datasets import read_categories

COCO_CATEGORIES = read_categories("coco_stuff_171")
