"""The compiled kernels: registers, spills and the width of accesses, which a run on the host does not show."""

import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

import gradfuse
from gradfuse import _core

ROOT = Path(__file__).resolve().parent.parent
WIDE = re.compile(r"\b(ld|st)\.(?:global\.)?(?:v4\.[uf]32|v4\.b32|v2\.[uf]64|v2\.b64)")


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """Compiles a file of csrc/cuda/kernels: ptxas's report and the PTX, both by kernel."""
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("needs nvcc")
    folder = tmp_path_factory.mktemp("nvcc")
    flags = [
        "-std=c++17",
        "-O3",
        "-arch=sm_90",
        "--fmad=false",
        "-Icsrc",
        "-DGRADFUSE_ISA=device",
        "-Xptxas=-v",
        "--keep",
    ]

    @cache
    def build(name):
        command = [nvcc, *flags, f"--keep-dir={folder}", "--cubin", "-o", str(folder / f"{name}.cubin")]
        source = f"csrc/cuda/kernels/{name}.cu"
        done = subprocess.run([*command, source], cwd=ROOT, capture_output=True, text=True, check=True)
        report = re.split(r"Compiling entry function '(\S+)'", done.stdout + done.stderr)
        code = re.split(r"\.entry (\w+)\(", (folder / f"{name}.ptx").read_text())
        return [dict(zip(parts[1::2], parts[2::2], strict=True)) for parts in (report, code)]

    return build


@pytest.fixture(scope="module")
def multi_tensor(build):
    return build("multi_tensor")


def resources(report):
    """The number of registers and of spilled bytes."""
    spilled = sum(int(n) for n in re.findall(r"(\d+) bytes spill", report))
    return int(re.search(r"Used (\d+) registers", report)[1]), spilled


def test_optimizers_fit_the_registers(multi_tensor):
    report, _ = multi_tensor
    steps = {name: resources(text) for name, text in report.items() if "4Step" in name}
    assert len(steps) >= len(_core.optimizer_list())
    assert all(registers <= 64 and spilled == 0 for registers, spilled in steps.values()), steps


def test_optimizers_access_16_bytes(multi_tensor):
    _, code = multi_tensor
    for name, text in code.items():
        if "4Step" in name:
            assert {"ld", "st"} <= set(WIDE.findall(text)), name


@pytest.fixture(scope="module")
def activations(build):
    return build("activations")


@pytest.mark.parametrize("direction", ["7ForwardI", "8BackwardI"])  # from the mangled name of the formula's struct
def test_activations_access_16_bytes_and_spill_nothing(activations, direction):
    report, code = ({k: v for k, v in part.items() if direction in k} for part in activations)
    assert len(code) == 4 * len(gradfuse.activations())
    for name, text in code.items():
        loads = 2 if "Forward" in direction else 4  # one or two arrays, two loads in flight for each
        found = WIDE.findall(text)
        assert found.count("ld") >= loads, name
        assert found.count("st") >= 2, name
        registers, spilled = resources(report[name])
        assert (registers <= 128, spilled) == (True, 0), name


@pytest.mark.parametrize("name", ["batch_norm", "rows", "random", "channels", "windows"])
def test_nothing_is_spilled(build, name):
    report, _ = build(name)
    assert report
    spilled = {kernel: resources(text)[1] for kernel, text in report.items()}
    assert not any(spilled.values()), spilled


@pytest.mark.parametrize("name", ["batch_norm", "channels"])
def test_channels_leave_room_for_512_threads(build, name):
    report, _ = build(name)
    assert all(resources(text)[0] <= 128 for text in report.values())
