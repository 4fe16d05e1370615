"""The original's path of the 847 classes of ADE20K."""

from ...d2.data.datasets import read_categories

ADE20K_SEM_SEG_FULL_CATEGORIES = read_categories("ade20k_full_847")
