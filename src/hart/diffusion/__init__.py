"""Residual diffusion: samples the continuous residual of the last scale, token by token."""
