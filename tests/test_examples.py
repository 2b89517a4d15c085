"""Every example runs, draws its figure, and shows what it claims."""

import importlib.util
import sys
from pathlib import Path

import pytest

for package in ("sklearn", "matplotlib", "tqdm", "threadpoolctl", "safetensors"):
    pytest.importorskip(package)

EXAMPLES = Path(__file__).parents[1] / "examples"
sys.path.append(str(EXAMPLES))  # for what they share; last, for a test's helper is named as one of them


@pytest.fixture
def run(tmp_path, threads):
    """Runs an example's main and returns its numbers."""
    import threadpoolctl

    def run(name):
        figure = tmp_path / f"{name}.png"
        spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
        example = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(example)
        numbers = example.main(figure)
        assert figure.read_bytes().startswith(b"\x89PNG")
        return numbers

    threads(1)
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        yield run


def test_activation_gallery(run):
    import smelt

    deviations = run("activation_gallery")
    assert list(deviations) == smelt.activations()
    assert max(deviations.values()) < 1e-9


def test_vanishing_gradients(run):
    ratios = run("vanishing_gradients")
    for net in ("He, ReLU", "LeCun, SELU", "Glorot, tanh"):
        assert 0.1 < ratios[net] < 10
    assert ratios["Glorot, ReLU"] < 1e-2  # each layer takes a factor of about sqrt(1/2)
    assert ratios["Glorot, sigmoid"] < 1e-10  # 4^-19 and less
    assert ratios["small random, tanh"] < 1e-10
    assert ratios["large random, tanh"] > 1e5
    assert ratios["large random, ReLU"] > 1e10


def test_batch_norm_order(run):
    numbers = run("batch_norm_order")
    for activation in ("ReLU", "sigmoid"):
        without, before, after = (numbers[f"{activation}, {order}: loss"] for order in ("without", "before", "after"))
        assert before < 0.8 * without
        assert after < 0.8 * without
        before, after = (numbers[f"{activation}, {order}: accuracy"] for order in ("before", "after"))
        assert min(before, after) > 0.95
        assert abs(before - after) < 0.02
    assert numbers["sigmoid, after: loss"] < 0.5 * numbers["sigmoid, before: loss"]
    assert numbers["sigmoid, without: accuracy"] < 0.2


def test_mc_dropout(run):
    numbers = run("mc_dropout")
    assert numbers["beyond"] > 1.6
    assert numbers["gap"] < numbers["beyond"]
    assert numbers["misread"] > 0.9
    assert numbers["unseen"] > 0.85


def test_one_cycle(run):
    numbers = run("one_cycle")
    assert numbers["1cycle, best rate"] < numbers["constant, best rate"]
    assert numbers["1cycle, highest rate"] < 0.6 * numbers["constant, highest rate"]


def test_optimizers(run):
    from smelt import optim

    ends = run("optimizers")
    names = {"SGD", "momentum", "Nesterov"} | set(optim.__all__) - {"Optimizer"}
    assert set(ends) == {f"{task}, {name}" for task in ("digits", "Rosenbrock", "Beale") for name in names}
    for name in names:  # on the digits a guess has 2.3; the surfaces are 508 and 41 at the start
        assert ends[f"digits, {name}"] < 0.1
        assert ends[f"Rosenbrock, {name}"] < 10
        assert ends[f"Beale, {name}"] < 0.05
    assert max(ends["Rosenbrock, momentum"], ends["Rosenbrock, Nesterov"]) < ends["Rosenbrock, SGD"] / 20
    assert ends["Beale, Adam"] < 1e-9 < 1e-4 < ends["Beale, AdamW"]


def test_universal_approximation(run):
    errors = run("universal_approximation")
    assert errors["bound"] == pytest.approx((2 * 3.14159265 / 6) ** 2 / 8)
    assert 0.95 * errors["bound"] < errors["by hand"] <= errors["bound"]
    assert errors["trained from there"] < 0.6 * errors["by hand"]
    assert errors["from random kinks, worst"] > errors["by hand"]


def test_growing_batch(run):
    numbers = run("growing_batch")
    assert numbers["growing batch: updates"] < 0.5 * numbers["falling rate: updates"]
    assert abs(numbers["growing batch: accuracy"] - numbers["falling rate: accuracy"]) < 0.01
    assert max(numbers["growing batch: loss"], numbers["falling rate: loss"]) < 0.6 * numbers["neither: loss"]


def test_convnet(run):
    assert run("convnet")["accuracy"] >= 0.985


def test_transfer_learning(run):
    numbers = run("transfer_learning")
    assert numbers["all of it learns on: early"] > numbers["from scratch: early"] + 0.05
    assert numbers["all of it learns on: end"] > numbers["from scratch: end"] - 0.01
    assert numbers["convolutions frozen: end"] > 0.7


def test_pretraining(run):
    numbers = run("pretraining")
    for each in (2, 4, 8, 16):
        assert numbers[f"pre-trained, {each}"] > numbers[f"from scratch, {each}"]
    assert numbers["pre-trained, 2"] > numbers["from scratch, 2"] + 0.1


def test_resume_after_kill(run):
    assert run("resume_after_kill") == {"kills": 5, "difference": 0}


def test_coarse_to_fine(run):
    pytest.importorskip("optuna")
    loss = run("coarse_to_fine")
    assert loss["fine"] <= loss["coarse"] < 0.7 * loss["default"]
    assert loss["worst"] > 3 * loss["fine"]
    assert loss["fine, test"] < 0.75 * loss["default, test"]
