"""The compiled CUDA kernels: registers, loads in flight and instructions, which a run on the host does not show."""

import re

import machine_code
import pytest
from machine_code import bytes_in_flight, kernels

import gradfuse
from gradfuse import _core

WHY_NOT = machine_code.why_not()
pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)


def named(pattern):
    found = [k for k in kernels() if re.search(pattern, k.name)]
    assert found, pattern
    return found


def schedule(kernel):
    """Threads of a block, elements of a vector, vectors that a thread loads at a time."""
    return tuple(map(int, re.search(r"Schedule<(\d+), (\d+), (\d+)", kernel.name).groups()))


def test_every_kernel_is_found():
    assert len(kernels()) > 550


def test_nothing_is_spilled():
    spilled = {k.name: k.stack for k in kernels() if k.stack}
    assert not spilled


# Of groups in whole vectors: rows, channels; kept in registers or in shared memory.
WHOLE = r"\(Layout\)[012], \(Kept\)[01]|, \(Layout\)[0124]> ?$"


# What takes more than 64 registers: four doubles of a group, tiles of groups, and vectors of eight elements with two
# columns, or with two inputs and an activation.
MORE = [
    r"<BatchNormTraining<.*(Kept\)0|Layout\)2> ?$)",
    r"<CrossEntropy.*Kept\)0",
    r"Layout\)4> ?$",
    r"<Normalize<float>, (Half|BFloat16).*Kept\)1",
    r"<(BatchNorm(Backward|Sums)|ChannelAffineBackward)<float>, (Half|BFloat16).*(Kept\)1|Layout\)2> ?$)",
    r"^SlotsOfShortRows<",
]


def test_registers_leave_room_for_1024_threads():
    loops = [k for k in named(r"^(Loop|ReduceSlots|MapSlots)<\w+<float>") if re.search(WHOLE, k.name)]
    assert len(loops) > 90
    for kernel in [*loops, *named("^SlotsOf(Short)?Rows<|^Step<|^LargeStep<|^GradientNorms|^ClipToNorm|^Clamp")]:
        assert kernel.registers <= (80 if re.search("|".join(MORE), kernel.name) else 64), kernel.name


# Of an activation: the most registers, and instructions for an element.
FORWARD, BACKWARD = 1, 2  # the number of arrays that are read
BOUNDS = {
    (FORWARD, "float"): (40, 60),
    (FORWARD, "Half"): (40, 31),
    (FORWARD, "BFloat16"): (40, 31),
    (BACKWARD, "float"): (48, 60),
    (BACKWARD, "Half"): (48, 46),
    (BACKWARD, "BFloat16"): (48, 46),
}


@pytest.mark.parametrize(("inputs", "storage"), BOUNDS)
def test_activations(inputs, storage):
    registers, instructions = BOUNDS[inputs, storage]
    found = named(rf"^Map<(Forward|Backward)<.*, {storage}, {inputs}, 1, ")
    assert len(found) == len(gradfuse.activations())
    for kernel in found:
        vectors = 2  # of 16 bytes, of each array
        way = kernel.way(vectors * inputs, vectors)
        elements = vectors * 16 // (4 if storage == "float" else 2)
        assert kernel.registers <= registers, kernel.name
        assert len(way) <= instructions * elements, kernel.name
        assert bytes_in_flight(way) == vectors * inputs * 16, kernel.name


def inputs_of(kernel):
    return 2 if re.search("Backward|OfProbabilities|Sums", kernel.name) else 1


def from_first_load(kernel):
    texts = [text for _, text in kernel.instructions]
    return texts[next(k for k, t in enumerate(texts) if machine_code.WIDE_LOAD.match(machine_code.operation_of(t))) :]


@pytest.mark.parametrize("row", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize(("direction", "inputs"), [("Forward", 1), ("Backward", 2)])
@pytest.mark.parametrize("storage", ["float", "Half", "BFloat16"])
def test_rows_are_loaded_whole_before_the_first_use(row, direction, inputs, storage):
    for kernel in named(rf"^Loop<{row}<float>::{direction}, {storage}, .*\(Layout\)1, \(Kept\)0>"):
        vectors = inputs * schedule(kernel)[2]
        assert bytes_in_flight(kernel.way(vectors, vectors // inputs)) == vectors * 16, kernel.name


def test_groups_in_registers_are_loaded_whole_before_the_first_use():
    loops = named(r"^Loop<.*\(Layout\)[12], \(Kept\)0>")
    assert len(loops) > 50
    for kernel in loops:
        whole = 16 * inputs_of(kernel) * schedule(kernel)[2]
        assert bytes_in_flight(from_first_load(kernel)) >= whole, kernel.name


@pytest.mark.parametrize("kernels", [r"^Loop<.*\(Kept\)1>", r"^ReduceSlots<.*\(Layout\)2> ?$", "^SlotsOfRows<"])
def test_groups_in_shared_memory_are_copied_without_registers(kernels):
    """So everything is in flight at once."""
    for kernel in named(kernels):
        operations = [machine_code.operation_of(text) for _, text in kernel.instructions]
        copies = [k for k, o in enumerate(operations) if o.startswith("LDGSTS.E.BYPASS.128")]
        assert len(copies) >= inputs_of(kernel), kernel.name
        plain = "Slots" in kernel.name or "NoStages" in kernel.name
        first = min((k for k, o in enumerate(operations) if o.startswith("LDG.E.128")), default=len(operations))
        assert first > max(copies) or not plain, kernel.name


def test_large_steps_load_all_arrays_before_the_first_use():
    for kernel in named(r"^LargeStep<.*, float> ?$"):
        arrays = 2 + bin(int(re.search(r", (\d+)u", kernel.name)[1])).count("1")  # parameter, gradient, states
        assert bytes_in_flight(from_first_load(kernel)) == 16 * arrays, kernel.name


def test_optimizers_access_16_bytes():
    steps = named("^Step<")
    assert len(steps) >= len(_core.optimizer_list())
    for kernel in steps:
        operations = {machine_code.operation_of(text) for _, text in kernel.instructions}
        assert any(map(machine_code.WIDE_LOAD.match, operations)), kernel.name
        assert any(map(machine_code.WIDE_STORE.match, operations)), kernel.name


def test_norms_issue_four_loads_at_a_time():
    (kernel,) = named("^GradientNorms")
    texts = [text for _, text in kernel.instructions]
    loads = [k for k, text in enumerate(texts) if machine_code.WIDE_LOAD.match(machine_code.operation_of(text))]
    assert sum(bytes_in_flight(texts[k:]) == 64 for k in loads) >= 4  # once for each storage type
