"""The base of errors that a person can mend without reading code."""


class UserError(Exception):
    """A mistake in what was asked for or given: the ``minidl`` command shows it in one line, without a traceback."""
