"""`python -m gradfuse.bench`: gradfuse beside NumPy and whatever of PyTorch, JAX, numexpr and numba is installed.

One process per thread count, the same buffers for everyone, random data, outputs written once before (and `out=` for
all who have it), warm-up, interleaved rounds; medians with the 20th and 80th percentile.
"""
