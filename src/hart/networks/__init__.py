"""Frozen networks of others, that losses and evaluation look at images with."""
