"""Evaluation: features, distances of sets of pictures, and one file for each suite of `hart evaluate`."""
