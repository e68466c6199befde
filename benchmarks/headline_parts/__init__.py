"""The models of `benchmarks/headline.py`, and what it measures of them."""
