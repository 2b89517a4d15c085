"""The machine that is measured, and what holds all contenders to the same."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np

from benchmarks.peers import optional
from gradfuse import _core


def machine(peers: tuple[str, ...] = ("torch", "jax", "numexpr", "numba")) -> dict[str, str]:
    """The machine and the versions, to be read beside the figures."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        fields = dict(line.split(":", 1) for line in cpuinfo.read_text().split("\n\n")[0].splitlines() if ":" in line)
        named = {k.strip(): v.strip() for k, v in fields.items()}
        processor = (
            f"{named.get('model name', processor)} (family {named.get('cpu family')}, model {named.get('model')})"
        )
    versions = {"numpy": np.__version__, "python": platform.python_version()}
    for peer in peers:
        if module := optional(peer):
            versions[peer] = getattr(module, "__version__", "unknown")
    return {
        "processor": processor,
        "cores": str(os.cpu_count()),
        "instruction set": instruction_set(),
        "compiler": _core.build_info()["compiler"],
        "gradfuse": _core.build_info()["version"],
        "commit": _commit(),
        "date": time.strftime("%Y-%m-%d"),
        "versions": ", ".join(f"{k} {v}" for k, v in versions.items()),
    }


def instruction_set() -> str:
    return _core.build_info()["isa"]


def _commit() -> str:
    """That of the working directory, or what GRADFUSE_COMMIT says of a copy of it without its history."""
    commit = os.environ.get("GRADFUSE_COMMIT", "")
    if not commit and (git := shutil.which("git")):
        found = subprocess.run([git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
        commit = found.stdout.strip()
    return commit or "unknown"


def environment(threads: int) -> dict[str, str]:
    """Equal thread counts for all; and where gradfuse is held to less than AVX-512, so are the others."""
    names = ("OMP", "OPENBLAS", "MKL", "NUMEXPR", "NUMBA")
    limits = {f"{name}_NUM_THREADS": str(threads) for name in names}
    xla = ["--xla_cpu_multi_thread_eigen=false"] if threads == 1 else []
    if os.environ.get("GRADFUSE_ISA") in ("baseline", "avx2"):
        found = np.show_config(mode="dicts")["SIMD Extensions"]["found"]  # names differ between NumPy's versions
        limits["NPY_DISABLE_CPU_FEATURES"] = " ".join(f for f in found if f.startswith("AVX512") or f == "X86_V4")
        limits["ATEN_CPU_CAPABILITY"] = "avx2"
        limits["ONEDNN_MAX_CPU_ISA"] = "AVX2"
        xla.append("--xla_cpu_max_isa=AVX2")
    return {**os.environ, **limits, "XLA_FLAGS": " ".join(xla)}
