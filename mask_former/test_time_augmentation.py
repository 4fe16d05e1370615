"""The original's path of test-time augmentation."""

from .d2.tta import SemanticSegmentorWithTTA as SemanticSegmentorWithTTA
