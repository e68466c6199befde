"""Training: the loop, and one task a stage."""
