#!/usr/bin/env bash
# Builds the extension with sanitizers and runs the tests of the extension with it: address and undefined behaviour
# together, then threads. One instruction set is enough, for all are the same sources.
# Usage: tools/sanitize.sh [address|thread], both without an argument; PYTHON names the interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$(realpath --no-symlinks "${PYTHON:-.venv/bin/python}")
tests=${TESTS:-"tests/test_activations.py tests/test_channels.py tests/test_rows.py tests/test_random.py tests/test_errors.py
       tests/test_optim.py tests/test_clipping.py"}

build() {  # build NAME SANITIZERS: an importable copy of the package under build/NAME
    cmake -S . -B "build/$1" -G Ninja -Wno-dev -DCMAKE_BUILD_TYPE=RelWithDebInfo -DSMELT_SANITIZE="$2" -DSMELT_ISAS="baseline" \
        -DPython_EXECUTABLE="$python" -DCMAKE_PREFIX_PATH="$("$python" -m pybind11 --cmakedir)" \
        -DSKBUILD_PROJECT_VERSION="$("$python" -c 'import re; print(re.search(r"version = .(.+?).\n", open("pyproject.toml").read())[1])')" \
        > "build/$1.log" || { cat "build/$1.log"; exit 1; }
    cmake --build "build/$1" >> "build/$1.log" || { cat "build/$1.log"; exit 1; }
    rm -rf "build/$1/python" && mkdir -p "build/$1/python"
    cp -r python/smelt "build/$1/python/" && rm -f "build/$1/python/smelt/"_core*.so && cp "build/$1/"_core*.so "build/$1/python/smelt/"
}

run() {  # run NAME LIBRARY: the tests with that build, the sanitizer's runtime loaded first
    LD_PRELOAD="$(gcc -print-file-name="$2") $(gcc -print-file-name=libstdc++.so)" \
    PYTHONPATH="build/$1/python" PYTHONMALLOC=malloc OPENBLAS_NUM_THREADS=1 \
        "$python" -m pytest -q -x --capture=sys -p no:cacheprovider -k "not ($skip)" $tests
}

skip="torch or jax"
mkdir -p build
case "${1:-all}" in
    address | all)
        build asan address,undefined
        # Leaks are not asked for: an interpreter frees little at its end.
        ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
            run asan libasan.so ;;&
    thread | all)
        build tsan thread
        # A process with threads cannot fork under this sanitizer; other instruction sets are other processes.
        tests=${TESTS:-"tests/test_robustness.py tests/test_optim.py"} skip="fork or child or instruction or torch or jax"
        TSAN_OPTIONS=halt_on_error=1 run tsan libtsan.so ;;
esac
