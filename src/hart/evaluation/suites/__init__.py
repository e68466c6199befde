"""The suites of `hart evaluate`: declared in `core`, based on `base`, each implemented in its own file."""
