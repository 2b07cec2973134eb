"""The whole conformance suite for this package's kernels, in one line."""

from minidl.testing.pytest_plugin import conformance_tests

test_kernels = conformance_tests("example")
