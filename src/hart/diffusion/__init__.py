"""Residual diffusion: the continuous residual of the last scale, token by token."""
