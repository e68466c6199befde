"""The text encoder: words to distil it on, the distillation, and how well it knows synonyms."""
