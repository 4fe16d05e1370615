"""Evaluators: Detectron2's, given checked labels and saying so when there is nothing to count."""
