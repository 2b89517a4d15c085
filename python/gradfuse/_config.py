"""What this installation is: version, instruction set, devices, threads."""

from __future__ import annotations

from gradfuse import _core, cuda

__version__: str = _core.build_info()["version"]


def show_config() -> str:
    """Lines on this installation: version, instruction set, CUDA, threads. Also printed by `python -m gradfuse`."""
    info = _core.build_info()
    rows = {
        "gradfuse": info["version"],
        "instruction set": f"{info['isa']} (of {info['isas']}; GRADFUSE_ISA chooses)",
        "threads": _core.get_num_threads(),
        "CUDA kernels": info["cuda"] or "none",
        "GPU": "available" if cuda.is_available() else cuda.why_not(),
        "compiler": info["compiler"],
    }
    return "\n".join(f"{name:16}{value}" for name, value in rows.items())
