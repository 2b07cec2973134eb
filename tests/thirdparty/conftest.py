"""The example package's own tests are run where it is installed, by test_thirdparty.py."""

collect_ignore = ["minidl_example_kernel"]
