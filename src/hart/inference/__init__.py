"""A model in, a faster one with the same numbers out. The model's own modules know nothing of it."""
