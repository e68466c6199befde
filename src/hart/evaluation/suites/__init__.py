"""The suites of `hart evaluate`: declared in `core`, with what is in `base`; what each does is in a file of its own."""
