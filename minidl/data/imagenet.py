"""ImageNet's classes (Russakovsky et al., "ImageNet Large Scale Visual Recognition Challenge", 2015)."""

from __future__ import annotations

from pathlib import Path


def imagenet_classes() -> list[str]:
    """The names of the 1,000 classes, in the order in which pretrained classifiers number them."""
    path = Path(__file__).parent / "files" / "imagenet_classes.txt"
    return path.read_text(encoding="utf-8").splitlines()
