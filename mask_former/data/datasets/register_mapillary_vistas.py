"""The original's path of Mapillary Vistas' classes."""

from ...d2.data.datasets import read_categories

MAPILLARY_VISTAS_SEM_SEG_CATEGORIES = read_categories("mapillary_vistas_65")
