"""The original's path of the 150 classes of ADE20K."""

from ...d2.data.datasets import read_categories

ADE20K_150_CATEGORIES = read_categories("ade20k_150")
