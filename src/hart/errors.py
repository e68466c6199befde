"""The one exception that means 'the caller can fix this'."""


class HartError(ValueError):
    """Bad input, in one line that says what was wrong and what to do. The command line prints it and exits with 2."""
