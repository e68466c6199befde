"""The parts of `benchmarks/gpu.py`, each of which runs in its own process."""
