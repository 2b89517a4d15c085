"""The same on a GPU: `python -m benchmarks --device cuda`."""
