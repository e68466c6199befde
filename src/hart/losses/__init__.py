"""Training losses; each is a sum of named parts."""
