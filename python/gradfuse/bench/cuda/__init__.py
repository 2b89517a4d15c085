"""The same on a GPU: `python -m gradfuse.bench --device cuda`."""
