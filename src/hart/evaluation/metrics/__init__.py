"""Figures of images and of sets of images: how they are computed, and how certain they are."""
