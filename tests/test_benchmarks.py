"""The benchmarks' command lines, what they measure, and which files a run writes. No test looks at a time."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from test_lists import ELSEWHERE, FUNCTIONS

import benchmarks.__main__ as repository
import benchmarks.cuda.run as cuda
import gradfuse
from benchmarks import busy, cases, cpu, report, training
from gradfuse import _core
from gradfuse import bench as package

ROOT = Path(__file__).resolve().parent.parent
MAINS = {
    "gradfuse.bench": package.main,
    "benchmarks": repository.main,
    "benchmarks.busy": busy.main,
    "benchmarks.training": training.main,
}


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs a command in this process: its exit status, what it printed, and what it said on stderr."""

    def run(module, *arguments):
        monkeypatch.setattr(sys, "argv", [module, *map(str, arguments)])
        status = 0
        try:
            MAINS[module]()
        except SystemExit as end:
            status = end.code
        return (status, *capsys.readouterr())

    return run


# -- options

WRONG = {
    "gradfuse.bench": [
        "--only nothing",
        "--threads 0",
        "--threads -1",
        "--threads 1025",
        "--threads two",
        "--where L9",
    ],
    "benchmarks": [
        "--only nothing",
        "--threads 1 0",
        "--threads 1025",
        "--seconds nan",
        "--device tpu",
        "--deadline 9",
    ],
    "benchmarks.busy": ["--only nothing", "--seconds 0"],
    "benchmarks.training": ["--threads 2"],
}


@pytest.mark.parametrize(("module", "options"), [(module, o) for module, some in WRONG.items() for o in some])
def test_wrong_options(command, module, options):
    status, out, err = command(module, *options.split())
    assert status == 2
    assert not out
    assert err.startswith(f"python -m {module}: ")
    assert err.count("\n") == 1


def test_wrong_options_say_what_to_do(command):
    assert "--list shows the names" in command("benchmarks", "--only", "nothing")[2]
    assert "must be from 1 to 1024, got '0'" in command("benchmarks", "--threads", "0")[2]
    assert "must be a folder" in command("benchmarks", "--output", __file__)[2]
    assert "works with --device cpu only" in command("benchmarks", "--device", "cuda", "--threads", "1")[2]


def test_without_a_gpu():
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    arguments = [sys.executable, "-m", "benchmarks", "--device", "cuda"]
    run = subprocess.run(arguments, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr.startswith("python -m benchmarks: --device cuda: ")
    assert run.stderr.count("\n") == 1


@pytest.mark.parametrize("module", ["gradfuse.bench", "benchmarks", "benchmarks.busy"])
def test_only_is_exact_unless_it_has_a_wildcard(command, module):
    def names(only):
        return command(module, "--list", "--only", only)[1].splitlines()

    assert names("relu") == ["relu"]
    assert names("relu*") == ["relu", "relu backward", "relu6", "relu6 backward"]
    assert names("[mt]anh") == ["tanh"]
    assert names("rel?6") == ["relu6"]


@pytest.mark.parametrize("module", MAINS)
def test_help(command, module):
    status, out, _ = command(module, "--help")
    assert status == 0
    text = " ".join(out.split())
    assert "minutes" in text
    if module == "gradfuse.bench":
        assert "writes no file" in text
    else:
        assert "folder to write to (build/benchmarks)" in text
    if module in ("benchmarks", "benchmarks.busy"):
        assert "never replaces the files of a full run" in text


# -- what is measured


def test_the_lists_are_measured():
    listed = {*gradfuse.activations(), *(row["name"] for row in _core.optimizer_list())}
    with_backward = {*gradfuse.activations(), *_core.row_operations(), *_core.norms()}
    listed |= with_backward | {f"{name} backward" for name in with_backward}
    listed |= {row["name"] for row in _core.losses()}
    assert listed <= set(package.operations())
    assert listed <= set(cases.case_names())


def test_the_package_measures_every_function():
    class Recorder:
        def __getattr__(self, name):
            called.add(name)
            return getattr(gradfuse, name)

    called = set()
    x, g = np.random.default_rng(0).standard_normal((2, 4, package.COLUMNS), np.float32)
    for setup in package.operations().values():
        setup(Recorder(), x, g)()
    aliases = {"swish", "swish_backward"}  # of silu
    kept = {"clip_grad_norm_", "clip_grad_value_", "max_norm_"}
    assert called - {"optim"} == (set(FUNCTIONS) - ELSEWHERE - aliases) | kept


@pytest.mark.parametrize("name", package.operations())
def test_contenders_agree(name):
    """Those of the package, in what they return first; a few roundings apart."""
    calls = package.contenders(name, 16 * package.COLUMNS)
    assert list(calls) == ["gradfuse", "numpy" if name in package.NUMPY else "numpy (float64 reference)"]
    ours, theirs = (call() for call in calls.values())
    ours, theirs = (y[0] if isinstance(y, tuple) else y for y in (ours, theirs))
    if name == "dropout":  # other random numbers
        assert abs(np.mean(theirs == 0) - np.mean(ours == 0)) < 0.05
    elif ours is not None:
        np.testing.assert_allclose(theirs, ours, 1e-5, 1e-6)
        assert np.asarray(theirs).dtype == np.float32 or name.startswith("clip")


def test_every_name_in_numpy_is_an_operation():
    assert set(package.NUMPY) <= set(package.operations())


def test_package(command, threads):
    threads(1)
    options = ["--only", "softsign*", "--where", "L2", "--threads", 1, "--seconds", 0.001]
    status, out, err = command("gradfuse.bench", *options)
    head, forward, backward = out.splitlines()
    assert (status, err) == (0, "")
    assert head.split() == ["operation", "where", "threads", "ns/element", "against", "times", "as", "long"]
    assert forward.split()[0:5:4] == ["softsign", "numpy"]
    assert backward[: len("softsign backward")] == "softsign backward"
    assert " numpy (float64 reference) " in backward


# -- a run, and its files


def test_partial_run_without_peers(tmp_path):
    pytest.importorskip("tqdm")
    full = tmp_path / f"cpu-{_core.build_info()['isa']}.json"
    full.write_text("full")
    for name in ("torch", "jax", "numexpr", "numba", "matplotlib"):
        (tmp_path / f"{name}.py").write_text("raise ModuleNotFoundError")
    path = os.pathsep.join([str(tmp_path), *sys.path])
    options = ["--only", "softmax", "--where", "L2", "--threads", "1", "--seconds", "0.001", "--output", tmp_path]
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks", *options],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert "1/1" in run.stderr
    assert run.stdout.startswith("case ")
    assert full.read_text() == "full"
    results = json.loads(full.with_stem(f"{full.stem}-partial").read_text())
    (row,) = results["rows"]
    assert set(row["seconds"]) == {"gradfuse", "numpy"}
    assert {path.name for path in tmp_path.glob("cpu-*")} == {
        full.name,
        f"{full.stem}-partial.json",
        f"{full.stem}-partial.txt",
    }


SAMPLE = {"median": 1e-6, "low": 1e-6, "high": 1e-6}


@pytest.fixture
def measured(monkeypatch):
    """Stands in for the processes that measure; `end` is raised once so many rows are there."""
    state = SimpleNamespace(end=None, after=0)

    def worker(threads):
        yield {"machine": {"instruction set": "none"}}
        rest = state.after
        for case in cases.all_cases():
            for where in ["own"] if case.size else package.SIZES:
                if state.end and not rest:
                    raise state.end
                rest -= 1
                row = {"case": case.name, "family": case.family, "where": where, "threads": threads, "elements": 1}
                yield {**row, "copy_share": None, "seconds": {"gradfuse": SAMPLE, "numpy": SAMPLE}}

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(cpu, "worker", worker)
    monkeypatch.setattr(cpu, "thread_counts", lambda: [1, 2])
    return state


def files(folder):
    return {path.name for path in folder.iterdir()}


FULL, PARTIAL = {"cpu-none.json", "cpu-none.txt"}, {"cpu-none-partial.json", "cpu-none-partial.txt"}


def test_full_run(command, measured, tmp_path):
    status, out, _ = command("benchmarks", "--output", tmp_path)
    assert status == 0
    assert files(tmp_path) == FULL
    rows = json.loads((tmp_path / "cpu-none.json").read_text())["rows"]
    assert {row["case"] for row in rows} == set(cases.case_names())
    assert {row["threads"] for row in rows} == {1, 2}
    assert f"wrote {tmp_path}/cpu-none.json" in out


def test_picture(tmp_path):
    pytest.importorskip("matplotlib")
    row = {"case": "relu", "where": "L2", "threads": 1, "elements": 1, "copy_share": 1.0}
    seconds = {"gradfuse": SAMPLE, "numpy": SAMPLE}
    results = {"machine": {}, "rows": [row | {"seconds": seconds}]}
    paths = report.write(results, tmp_path, "cpu", full=True)
    assert [path.name for path in paths] == ["cpu.json", "cpu.txt", "cpu.png"]
    paths = report.write({"machine": {}, "rows": [row | {"seconds": {"gradfuse": SAMPLE}}]}, tmp_path, "cpu", full=True)
    assert [path.name for path in paths] == ["cpu.json", "cpu.txt"], "the picture of an earlier run"


@pytest.mark.parametrize("options", ["--where L2 L3", "--threads 2", "--only [a-z]*"])
def test_partial_run(command, measured, tmp_path, options):
    status, _, _ = command("benchmarks", *options.split(), "--output", tmp_path)
    assert status == 0
    assert files(tmp_path) == PARTIAL


@pytest.mark.parametrize("end", [KeyboardInterrupt(), subprocess.CalledProcessError(-9, "python")])
def test_stopped_run(command, measured, tmp_path, end):
    command("benchmarks", "--output", tmp_path)
    before = (tmp_path / "cpu-none.json").read_text()
    measured.end, measured.after = end, 5
    status, _, err = command("benchmarks", "--output", tmp_path)
    assert status == 1
    assert "python -m benchmarks: " in err
    assert files(tmp_path) == FULL | PARTIAL
    assert (tmp_path / "cpu-none.json").read_text() == before
    assert len(json.loads((tmp_path / "cpu-none-partial.json").read_text())["rows"]) == 5


@pytest.mark.parametrize(
    ("options", "end", "status", "name"),
    [
        ("", None, 0, "cuda-A-GPU"),
        ("--only relu", None, 0, "cuda-A-GPU-partial"),
        ("--deadline 1", None, 0, "cuda-A-GPU-partial"),
        ("", KeyboardInterrupt, 1, "cuda-A-GPU-partial"),
        ("", RuntimeError, 1, "cuda-A-GPU"),  # a row that says so
    ],
)
def test_run_on_cuda(command, monkeypatch, tmp_path, options, end, status, name):
    """The order of a run; what it measures with is not there."""
    clock = iter(range(10**6))

    def run_case(case, *rest):
        if end and case.name == "softmax":
            raise end
        row = {"case": case.name, "dtype": case.dtype, "shape": case.shape, "clock": case.clock, "bytes": case.bytes}
        return {**row, "gbs": 1.0, "copy_share": 1.0, "seconds": {"gradfuse": SAMPLE}, "eager": {}, "problems": {}}

    stream = SimpleNamespace(synchronize=lambda: None)
    cupy = SimpleNamespace(cuda=SimpleNamespace(Stream=lambda non_blocking: stream))
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(cuda, "why_not", lambda: "")
    monkeypatch.setattr(cuda, "machine", lambda common: {"gpu": "A GPU"})
    monkeypatch.setattr(cuda, "Memory", lambda: SimpleNamespace(dtypes=["float32", "bfloat16"]))
    monkeypatch.setattr(cuda, "work_on", contextlib.nullcontext)
    monkeypatch.setattr(cuda, "run_case", run_case)
    monkeypatch.setattr(cuda, "_clear", lambda: None)
    if "--deadline" in options:
        monkeypatch.setattr(cuda, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    assert command("benchmarks", "--device", "cuda", *options.split(), "--output", tmp_path)[0] == status
    assert files(tmp_path) == {f"{name}.json", f"{name}.txt"}


def test_marks_of_a_gpu():
    from benchmarks.cuda.marks import missed

    measured = json.loads((ROOT / "benchmarks/results/cuda-h200.json").read_text())
    lines = missed(measured)
    assert "softmax, float32, 4096x1000: 28.7 us, triton 9.8" in lines
    assert "softmax, float32, 4096x1000: 28.7 us, the prototype 9.4" in lines
    assert not any(line.startswith("dropout, float32") for line in lines)  # faster than its peers
    (softmax,) = (
        r for r in measured["rows"] if (r["case"], r["dtype"], r["shape"]) == ("softmax", "float32", "4096x1000")
    )
    measured["rows"].append({**softmax, "shape": "1048576x10"})
    assert "softmax, float32, 1048576x10: 0.27 of a copy's speed, the mark 0.7" in missed(measured)
    measured["machine"]["gpu"] = "another"
    assert not any("prototype" in line for line in missed(measured))
