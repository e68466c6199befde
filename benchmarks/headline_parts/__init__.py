"""The models of `benchmarks/headline.py`, and how it measures them."""
