"""Drawing pictures: scale by scale, then the residual tokens."""
