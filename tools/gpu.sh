#!/usr/bin/env bash
# On a machine with a GPU and nvcc: builds the extension for that GPU, tests it there and measures it, in nine minutes.
# With --sanitize: builds it and runs every kind of kernel under compute-sanitizer instead. Nothing is fetched.
# Usage: tools/gpu.sh [--sanitize] OUTPUT_DIR. PYTHON names the interpreter; its environment has CuPy and what builds and
# tests need, and of PyTorch, Triton and JAX those that are to be measured. GRADFUSE_COMMIT says what is measured where there
# is no git to ask.
set -uo pipefail

sanitize=no
if [ "${1:-}" = --sanitize ]; then
    sanitize=yes
    shift
fi
if [ $# -ne 1 ]; then
    echo "usage: tools/gpu.sh [--sanitize] OUTPUT_DIR" >&2
    exit 2
fi
mkdir -p "$1" || exit 2
out=$(realpath "$1")
cd "$(dirname "$0")/.." || exit 2
python=$(realpath --no-symlinks "$(command -v "${PYTHON:-python3}")") || exit 2
export PYTHON=$python PATH="$(dirname "$python"):$PATH:/usr/local/cuda/bin"
export XLA_PYTHON_CLIENT_PREALLOCATE=false  # JAX would take most of the GPU's memory, in every process
readonly all=540                            # seconds, for everything

summary=()
status=0
left() { echo $((all - SECONDS > 10 ? all - SECONDS : 10)); }
least() { echo $(($1 < $2 ? $1 : $2)); }

part() {  # part NAME LIMIT COMMAND...: with a log of its own and a line in the summary
    local name=$1 limit=$2 began=$SECONDS code
    shift 2
    echo "== $name, at most $limit s"
    timeout --kill-after=10 "$limit" "$@" > "$out/$name.log" 2>&1
    code=$?
    tail -n 4 "$out/$name.log"
    case $code in
        0) summary+=("$name: good, $((SECONDS - began)) s") ;;
        124 | 137) summary+=("$name: not done after $limit s, see $name.log") ;;
        *) summary+=("$name: failed with status $code after $((SECONDS - began)) s, see $name.log") ;;
    esac
    [ $code -eq 0 ] || status=1
    return $code
}

build() {
    rm -rf build/gpu/python  # what is older must not be taken for this build
    CUDAFLAGS=-lineinfo part build 200 tools/variant.sh gpu -DCMAKE_BUILD_TYPE=Release -DGRADFUSE_CUDA=ON -DGRADFUSE_ISAS=baseline
    local code=$?
    [ $code -eq 0 ] || rm -rf build/gpu/python
    cp build/gpu.log "$out/build.log" 2> /dev/null  # with the registers and spills of every kernel
    return $code
}

run() {  # run NAME LIMIT COMMAND...: likewise, where there is a build
    if [ -d build/gpu/python ]; then
        PYTHONPATH="$PWD/build/gpu/python" part "$@"
    else
        summary+=("$1: not run, for there is no build")
    fi
}

nvidia-smi > "$out/machine.log" 2>&1
build
if [ $sanitize = yes ]; then
    tools=(memcheck racecheck synccheck)
    for k in "${!tools[@]}"; do
        run "${tools[k]}" $(($(left) / (${#tools[@]} - k))) \
            compute-sanitizer --tool "${tools[k]}" --error-exitcode 1 "$python" tools/gpu_smoke.py
    done
else
    parallel=()
    if "$python" -c "import xdist" 2> /dev/null; then parallel=(-n 8); fi
    run tests "$(least 180 "$(left)")" "$python" -m pytest -q -k cuda -p no:cacheprovider -p no:benchmark "${parallel[@]}" tests
    # It begins nothing after its deadline; what it has begun, and its imports, take some more.
    seconds=$(left)
    run benchmark "$seconds" \
        "$python" -m benchmarks --device cuda --output "$out" --deadline $((seconds > 75 ? seconds - 45 : 30))
fi

echo
echo "summary, $SECONDS s:"
printf '%s\n' "${summary[@]}"
sed -n '/^slower than their marks:/,/^$/p' "$out/benchmark.log" 2> /dev/null
exit $status
