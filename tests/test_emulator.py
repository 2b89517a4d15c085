"""The emulator of CUDA: it must fail where a GPU would. And the kernels' arithmetic that needs no memory."""

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Runs a case of emulator/test_emulator.cpp, with the address and undefined-behaviour sanitizers."""
    if shutil.which("g++") is None:
        pytest.skip("needs g++")
    program = tmp_path_factory.mktemp("emulator") / "test_emulator"
    flags = ["-std=c++17", "-O1", "-g", "-Wall", "-Wextra", "-Wno-unknown-pragmas", "-Werror"]
    flags += ["-fsanitize=address,undefined", "-fno-sanitize-recover", "-DGRADFUSE_ISA=device"]
    flags += ["-mfma"] if platform.machine() in ("x86_64", "AMD64") else []
    source, include = "tests/emulator/test_emulator.cpp", ["-Icsrc", "-Itests/emulator"]
    subprocess.run(["g++", *flags, *include, source, "-o", str(program)], cwd=ROOT, check=True)

    def run(case):
        done = subprocess.run([str(program), case], capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr

    return run


def test_barriers_shuffles_and_shared_memory(run):
    assert run("reduce") == (0, "2: right\n32: right\n64: right\n256: right\n", "")


def test_indices_beyond_two_to_the_31(run):
    assert run("index") == (0, "right\n", "")


@pytest.mark.parametrize("case", ["barrier", "shuffle"])
def test_a_barrier_that_not_all_threads_reach(run, case):
    assert run(case) == (0, "error: not every thread of a block reached its barrier\n", "")


def test_shared_memory_is_poisoned(run):
    assert run("shared") == (0, "nan\n", "")


@pytest.mark.parametrize(("case", "text"), [("beyond", "heap-buffer-overflow"), ("unaligned", "misaligned address")])
def test_the_sanitizers_see_into_kernels(run, case, text):
    code, _, error = run(case)
    assert code != 0
    assert text in error
