#!/usr/bin/env bash
# Builds the extension with sanitizers and runs the tests of the extension with it: address and undefined behaviour
# together, the CUDA kernels on their emulator included, then threads. One instruction set is enough, for all are the same
# sources.
# Usage: tools/sanitize.sh [address|thread], both without an argument; PYTHON names the interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$(realpath --no-symlinks "${PYTHON:-.venv/bin/python}")
tests=${TESTS:-"tests/test_activations.py tests/test_channels.py tests/test_rows.py tests/test_random.py tests/test_errors.py
       tests/test_optim.py tests/test_clipping.py tests/test_layouts.py tests/test_windows.py tests/test_cuda.py"}

build() {  # build NAME SANITIZERS [CMake arguments]
    PYTHON="$python" tools/variant.sh "$1" -DCMAKE_BUILD_TYPE=RelWithDebInfo -DGRADFUSE_SANITIZE="$2" -DGRADFUSE_ISAS=baseline "${@:3}"
}

run() {  # run NAME LIBRARY: the tests with that build, the sanitizer's runtime loaded first
    LD_PRELOAD="$(gcc -print-file-name="$2") $(gcc -print-file-name=libstdc++.so)" \
    PYTHONPATH="build/$1/python" PYTHONMALLOC=malloc OPENBLAS_NUM_THREADS=1 \
        "$python" -m pytest -q -x -n auto --dist worksteal --capture=sys -p no:cacheprovider -k "not ($skip)" $tests
}

# Of the emulated kernels the smaller tests, which go through every one of them.
skip="torch or jax or (cuda-emulated and not (layouts or windows or test_cuda or ten_steps))"
case "${1:-all}" in
    address | all)
        build asan address,undefined -DGRADFUSE_CUDA=EMULATED
        # Leaks are not asked for: an interpreter frees little at its end.
        ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
            run asan libasan.so ;;&
    thread | all)
        build tsan thread -DGRADFUSE_CUDA=OFF
        # A process with threads cannot fork under this sanitizer; other instruction sets are other processes.
        tests=${TESTS:-"tests/test_robustness.py tests/test_optim.py tests/test_windows.py"} skip="fork or child or instruction or torch or jax"
        TSAN_OPTIONS=halt_on_error=1 run tsan libtsan.so ;;
esac
