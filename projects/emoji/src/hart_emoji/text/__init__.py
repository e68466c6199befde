"""The text encoder: its corpus, the distillation, and how well it knows synonyms."""
