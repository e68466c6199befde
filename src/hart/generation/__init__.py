"""Generating images: scale by scale, then the residual tokens."""
