"""What this installation is: version, instruction set, devices, threads."""

from __future__ import annotations

from smelt import _core, cuda

__version__: str = _core.build_info()["version"]


def show_config() -> str:
    """A few lines on this installation: version, instruction set, CUDA, threads. Also printed by `python -m smelt`."""
    info = _core.build_info()
    rows = {
        "smelt": info["version"],
        "instruction set": f"{info['isa']} (of {info['isas']}; SMELT_ISA chooses)",
        "threads": _core.get_num_threads(),
        "CUDA kernels": info["cuda"] or "none",
        "GPU": "available" if cuda.is_available() else cuda.why_not(),
        "compiler": info["compiler"],
    }
    return "\n".join(f"{name:16}{value}" for name, value in rows.items())
