"""Training losses, each a sum of named parts."""
