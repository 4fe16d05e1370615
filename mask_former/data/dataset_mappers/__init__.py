"""The original's paths of the dataset mappers."""
