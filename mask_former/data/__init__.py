"""The original's paths below ``data``, for projects that import them; see ``d2/data``."""
