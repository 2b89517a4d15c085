#!/usr/bin/env bash
# Builds the extension in another way and leaves an importable copy of the package under build/NAME/python.
# Usage: tools/variant.sh NAME [CMake arguments]; PYTHON names the interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$(realpath --no-symlinks "${PYTHON:-.venv/bin/python}")
name=$1 log=build/$1.log
shift
mkdir -p build
version=$("$python" -c 'import re; print(re.search(r"version = .(.+?).\n", open("pyproject.toml").read())[1])')
{
    cmake -S . -B "build/$name" -G Ninja -Wno-dev -DPython_EXECUTABLE="$python" -DSKBUILD_PROJECT_VERSION="$version" \
        -DCMAKE_PREFIX_PATH="$("$python" -m pybind11 --cmakedir)" "$@"
    cmake --build "build/$name"
} > "$log" 2>&1 || { cat "$log"; exit 1; }
rm -rf "build/$name/python" && mkdir -p "build/$name/python"
cp -r python/gradfuse "build/$name/python/"
rm -f "build/$name/python/gradfuse/"_core*.so
cp "build/$name/"_core*.so "build/$name/python/gradfuse/"
