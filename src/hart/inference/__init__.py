"""Makes a model faster with the same results. The model's own modules know nothing of it."""
