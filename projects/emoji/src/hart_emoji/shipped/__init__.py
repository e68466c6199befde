"""Trains the shipped model from a packed set, on one GPU within a given time."""
