"""The text encoder: its corpus and its distillation."""
