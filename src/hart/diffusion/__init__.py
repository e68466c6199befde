"""Residual diffusion: the continuous rest of the last scale, token by token."""
