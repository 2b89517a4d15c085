"""The same on a GPU: `python -m smelt.bench --device cuda`."""
