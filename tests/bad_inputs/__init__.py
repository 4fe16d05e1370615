"""Inputs that are wrong, by the hundred: ``python -m tests.bad_inputs`` tries them and counts."""
