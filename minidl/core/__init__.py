"""The engine: what a primitive is, who computes it, how it is recorded and differentiated. Start with
:mod:`~minidl.core.primitive`."""
