"""Frozen networks of others, for losses and evaluation."""
