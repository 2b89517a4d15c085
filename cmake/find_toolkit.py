"""Prints where the nvidia-* packages have put a CUDA toolkit, if this Python has them."""

import sys
from pathlib import Path

toolkits = [t for entry in sys.path for t in sorted(Path(entry).glob("nvidia/cu[0-9]*"), reverse=True)]
print(next((t for t in toolkits if (t / "bin" / "nvcc").exists()), ""))
