"""The parts of `benchmarks/train_shipped.py`."""
