"""Measurements against other libraries: ``python -m benchmarks.training_steps`` and its neighbours."""
