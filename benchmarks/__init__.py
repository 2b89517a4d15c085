"""`python -m benchmarks`, from the repository's root: gradfuse beside NumPy and the other libraries that are installed.

On the CPU these are PyTorch, JAX, numexpr and numba; on a GPU PyTorch, CuPy, Triton and JAX. One process for each
thread count, the same buffers for all, random data, results written once before (and `out=` where a library has it),
warm-up, interleaved rounds; medians with the 20th and 80th percentile.

`benchmarks.training` measures training steps, `benchmarks.busy` a machine with a busy core. What is installed with the
package, `python -m gradfuse.bench`, needs nothing but NumPy.
"""
