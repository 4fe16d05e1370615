"""Stateless tensor math: losses, matching, inference and targets. Needs torch and scipy only."""
