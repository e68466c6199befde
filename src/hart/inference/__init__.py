"""A model goes in, a faster one with the same numbers comes out. The model's own modules know nothing of it."""
