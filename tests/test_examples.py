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
    import gradfuse

    deviations = run("activation_gallery")
    assert list(deviations) == gradfuse.activations()
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
    from gradfuse import optim

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


def test_self_normalizing(run):
    numbers = run("self_normalizing")
    own, default, plain = "self-normalizing", "default", "default, no batch norm"
    assert numbers[f"{own}: mean"] < 0.1 < 0.5 < numbers[f"{plain}: mean"]
    assert numbers[f"{own}: deviation"] < 0.15 < 0.6 < numbers[f"{plain}: deviation"]
    trained = {name: numbers[f"{name}: trained deviation"] for name in (own, default, plain)}
    assert trained[default] < 0.4 < 0.7 < trained[own] < trained[plain]
    assert numbers[f"{own}: early"] < 0.7 * min(numbers[f"{default}: early"], numbers[f"{plain}: early"])
    assert numbers[f"{default}: end"] < min(numbers[f"{own}: end"], numbers[f"{plain}: end"])


def test_diagnosis(run):
    numbers = run("diagnosis")
    sound, large, sigmoid = "tanh", "tanh, large weights", "sigmoid"
    assert max(numbers[f"{name}: start"] for name in (sound, sigmoid)) < 3 < 8 < numbers[f"{large}: start"]
    assert numbers[f"{sound}: lowest"] < 0.7 < 0.9 < numbers[f"{sigmoid}: lowest"]
    assert numbers[f"{sound}: saturated"] < 0.1 < 0.6 < numbers[f"{large}: saturated"]
    assert numbers[f"{sigmoid}: gradient"] < 1e-2 < 0.1 < numbers[f"{sound}: gradient"] < 10
    assert numbers[f"{sigmoid}: update"] < 1e-5 < 5e-4 < numbers[f"{sound}: update"] < 1e-2
    assert numbers[f"{sound}: accuracy"] > 0.9
    assert numbers[f"{large}: accuracy"] < 0.7
    assert numbers[f"{sigmoid}: accuracy"] < 0.2


def test_half_precision(run):
    pytest.importorskip("ml_dtypes")
    numbers = run("half_precision")
    least = numbers["float32"]
    for name in ("float16, dynamic scale", "bfloat16", *(f"float16, scale 2^{k}" for k in range(-8, 13, 4))):
        assert 0.7 * least < numbers[name] < 1.3 * least
    assert numbers["bfloat16, no master weights"] > 2 * least
    assert numbers["float16, scale 2^16"] > 1.5 * least
    for k in (-24, 20):  # as at the start
        assert numbers[f"float16, scale 2^{k}"] > 2
    assert numbers["least scale"] < 2**16 < numbers["last scale"]
