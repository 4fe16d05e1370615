"""Data sets and mappers."""
