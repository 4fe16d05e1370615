"""Files of weights: reading them, what they say of their model, and whose classes go over."""
