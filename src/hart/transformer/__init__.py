"""The scalable-resolution autoregressive transformer."""
