"""Threads, processes and instruction sets: none of them is seen in a result."""

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from helpers import OPERATIONS, assert_identical, python

import gradfuse

# Large enough to be split among threads, with channels in patterns and in runs.
SHAPES = [(3001, 130), (6, 4, 113, 121)]


def inputs(shape, dtype="float32"):
    rng = np.random.default_rng(1)
    return [rng.normal(size=shape).astype(dtype) for _ in range(2)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_number_of_threads(cpu, threads, operation, shape):
    x, g = inputs(shape)
    results = []
    for n in (1, 4, 7):
        threads(n)
        assert gradfuse.get_num_threads() == n
        results.append(OPERATIONS[operation](cpu, x, g))
    for other in results[1:]:
        for a, b in zip(other, results[0], strict=True):
            assert_identical(a, b)


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
@pytest.mark.parametrize("operation", ["mish", "batch_norm_training", "cross_entropy", "mse_loss", "dropout", "prelu"])
def test_number_of_threads_by_dtype(cpu, threads, operation, dtype):
    for shape in SHAPES:
        x, g = inputs(shape, dtype)
        threads(1)
        expected = OPERATIONS[operation](cpu, x, g)
        threads(4)
        for a, b in zip(OPERATIONS[operation](cpu, x, g), expected, strict=True):
            assert_identical(a, b)


def test_many_threads_call_at_once(threads):
    threads(4)
    x, g = inputs((700, 130))
    expected = {name: run(gradfuse, x, g) for name, run in OPERATIONS.items()}
    with ThreadPoolExecutor(8) as pool:
        futures = [(name, pool.submit(run, gradfuse, x, g)) for _ in range(3) for name, run in OPERATIONS.items()]
        for _ in range(20):
            threads(3)
            threads(4)
        for name, future in futures:
            for a, b in zip(future.result(), expected[name], strict=True):
                assert_identical(a, b)


def test_generator_shared_by_threads():
    """Every call has a stream of its own."""
    generator, x = gradfuse.Generator(3), np.ones(20_000, np.float32)
    with ThreadPoolExecutor(8) as pool:
        masks = list(pool.map(lambda _: gradfuse.dropout_forward(x, rng=generator)[0].tobytes(), range(64)))
    assert generator.stream == len(set(masks)) == 64


@pytest.mark.parametrize(("size", "others_run"), [(16, False), (5_000_000, True)])
def test_large_calls_let_other_threads_run(size, others_run):
    x = np.ones(size, np.float32)
    out, waiting, go, ran = np.empty_like(x), threading.Event(), threading.Event(), []

    def other():
        waiting.set()
        go.wait()
        ran.append(True)

    interval = sys.getswitchinterval()
    thread = threading.Thread(target=other)
    thread.start()
    waiting.wait()
    try:
        sys.setswitchinterval(1000)  # nobody is asked to give way
        go.set()
        for _ in range(20):
            gradfuse.gelu_tanh(x, out=out)
        seen = bool(ran)
    finally:
        sys.setswitchinterval(interval)
        thread.join()
    assert seen == others_run


FORK = """
import os, signal, warnings
import numpy as np, gradfuse
from helpers import OPERATIONS
warnings.simplefilter("ignore")  # that a process with threads forks is the point
gradfuse.set_num_threads(4)
rng = np.random.default_rng(1)
x, g = (rng.normal(size=(3001, 130)).astype(np.float32) for _ in range(2))
results = lambda: [a.tobytes() for run in OPERATIONS.values() for a in run(gradfuse, x, g)]
expected = results(), gradfuse.elu(x).tobytes()
for fork in range(100):  # many: the threads are found at every point of their work
    gradfuse.elu(x)
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        if fork % 50:
            os._exit(0 if gradfuse.elu(x).tobytes() == expected[1] else 1)
        same = results() == expected[0]
        gradfuse.set_num_threads(3)
        os._exit(0 if same and results() == expected[0] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert results() == expected[0]
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_fork():
    run = python("-c", FORK)
    assert run.returncode == 0, run.stderr


IN_USE = gradfuse._core.build_info()["isa"]
OTHERS = [isa for isa in gradfuse._core.build_info()["isas"].split(", ") if isa != IN_USE]


@pytest.mark.skipif(bool(os.environ.get("GRADFUSE_ISA")), reason="an instruction set was asked for")
@pytest.mark.parametrize("isa", OTHERS)
@pytest.mark.parametrize("file", ["activations", "channels", "rows", "random"])
def test_instruction_sets(isa, file):
    """The other builds pass the same tests against the reference."""
    run = python(
        "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", f"test_{file}.py", GRADFUSE_ISA=isa
    )
    assert run.returncode == 0, run.stdout


def test_instruction_set_that_is_not_there():
    run = python("-c", "import gradfuse", GRADFUSE_ISA="mmx")
    known = gradfuse._core.build_info()["isas"]
    assert f"GRADFUSE_ISA must be one of {known} on this machine, got 'mmx'" in run.stderr


def test_instruction_set_is_reported():
    for isa in [IN_USE, *OTHERS]:
        run = python("-c", "import gradfuse; print(gradfuse._core.build_info()['isa'])", GRADFUSE_ISA=isa)
        assert run.stdout.strip() == isa
