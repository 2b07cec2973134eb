"""Checks for primitives and kernels: finite differences here, the conformance suite in its own module."""

from minidl.testing.gradcheck import gradcheck, gradgradcheck, numerical_gradient

__all__ = ["gradcheck", "gradgradcheck", "numerical_gradient"]
