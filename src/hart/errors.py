"""The one exception that means 'the caller can fix this', and the warning about prompts."""


class HartError(ValueError):
    """Bad input, in one line that says what was wrong and what to do. The command line prints it and exits with 2."""


class PromptWarning(UserWarning):
    """A prompt is drawn, but not as it was written: the text encoder leaves words out, or does not know them."""
