"""Training of the shipped model on one GPU within a given time, from a packed set."""
