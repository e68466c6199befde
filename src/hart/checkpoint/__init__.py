"""The published and our own checkpoint formats."""
