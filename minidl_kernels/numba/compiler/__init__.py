"""Compiles captured programs (:mod:`minidl.jit`) into fused loops on a tape of compiled calls."""
