"""The emulator of CUDA: it must fail where a GPU would. And the kernels' arithmetic that needs no memory."""

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def built(folder, *flags):
    """Runs a case of emulator/test_emulator.cpp, built with these flags."""
    if shutil.which("g++") is None:
        pytest.skip("needs g++")
    program = folder / "test_emulator"
    flags = ["-std=c++17", *flags, "-g", "-Wall", "-Wextra", "-Wno-unknown-pragmas", "-Werror", "-DGRADFUSE_ISA=device"]
    flags += ["-mfma"] if platform.machine() in ("x86_64", "AMD64") else []
    source, include = "tests/emulator/test_emulator.cpp", ["-Icsrc", "-Itests/emulator"]
    subprocess.run(["g++", *flags, *include, source, "-o", str(program)], cwd=ROOT, check=True)

    def run(*case):
        done = subprocess.run([str(program), *case], capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr

    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """With the address and undefined-behaviour sanitizers."""
    return built(tmp_path_factory.mktemp("emulator"), "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover")


@pytest.fixture(scope="module")
def run_checking_alignment(tmp_path_factory):
    """As the emulated kernels are built for the tests."""
    flags = ("-O3", "-fsanitize=alignment", "-fno-sanitize-recover=alignment", "-DGRADFUSE_CHECKS_ALIGNMENT")
    return built(tmp_path_factory.mktemp("aligned"), *flags)


def test_barriers_shuffles_and_shared_memory(run):
    assert run("reduce") == (0, "2: right\n32: right\n64: right\n256: right\n", "")


def test_indices_beyond_two_to_the_31(run):
    assert run("index") == (0, "right\n", "")


def test_quotients_of_16_bit_arithmetic(run):
    assert run("quotient") == (0, "right\n", "")


@pytest.mark.parametrize("case", ["barrier", "shuffle"])
def test_a_barrier_that_not_all_threads_reach(run, case):
    assert run(case) == (0, "error: not every thread of a block reached its barrier\n", "")


def test_shared_memory_is_poisoned(run):
    assert run("shared") == (0, "nan\n", "")


def test_banks_of_shared_memory(run):
    conflicts = {
        "4 bytes at every 1 words": 1,
        "4 bytes at every 0 words": 1,  # one word for all
        "4 bytes at every 2 words": 2,
        "4 bytes at every 3 words": 1,
        "4 bytes at every 32 words": 32,
        "8 bytes at every 2 words": 1,
        "8 bytes at every 4 words": 2,
        "16 bytes at every 4 words": 1,
        "16 bytes at every 8 words": 2,
        "16 bytes at every 0 words": 1,
    }
    assert run("banks") == (0, "".join(f"{access}: {n}\n" for access, n in conflicts.items()), "")


def test_clusters(run):
    assert run("cluster") == (0, "1 2 3 0 5 6 7 4 \n", "")


def test_the_shared_memory_of_a_block_that_has_ended_is_poisoned(run):
    code, numbers, error = run("deserted cluster")
    assert (code, error) == (0, "")
    assert "-1" in numbers.split()


def test_copies_happen_when_they_are_waited_for(run):
    assert run("copies") == (0, "4 -nan 5\n", "")


def test_a_misaligned_copy_is_a_fault(run_checking_alignment):
    assert run_checking_alignment("misaligned copies") == (0, "error: misaligned address\n0 0 0\n", "")


@pytest.mark.parametrize(
    ("case", "text"), [("beyond", "heap-buffer-overflow"), ("touch read4+4", "misaligned address")]
)
def test_the_sanitizers_see_into_kernels(run, case, text):
    code, _, error = run(*case.split())
    assert code != 0
    assert text in error


@pytest.mark.parametrize("access", ["read4+4", "write4+4", "read1+1", "write1+2"])
def test_a_misaligned_access_is_a_fault_and_so_is_every_call_after_it(run_checking_alignment, access):
    """Of 16 bytes at a multiple of 4, of an element at an odd address."""
    fault = "error: misaligned address\n"
    assert run_checking_alignment("touch", access) == (0, f"{fault}nothing written\n{fault}", "")


@pytest.mark.parametrize("access", ["write4+16", "write1+12"])
def test_an_aligned_access_is_none(run_checking_alignment, access):
    assert run_checking_alignment("touch", access) == (0, "written\n", "")
