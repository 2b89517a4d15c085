"""The hot loops of every instruction set's build hold packed arithmetic in its widest registers.

Vectorisation is lost silently (a flag, a branch, a call): the built module itself is read.
"""

import re
import shutil
import subprocess

import pytest

import gradfuse
from gradfuse import _core

PACKED = re.compile(r"\bv?(?:add|sub|mul|div|sqrt|max|min|andn?|cmp\w*|blend[vm]?|fn?m(?:add|sub)\d+)p([sd])\b")
REGISTER = {"baseline": "%xmm", "avx2": "%ymm", "avx512": "%zmm"}
SUFFIX = {"float": "s", "double": "d"}


@pytest.fixture(scope="module")
def functions():
    """The instructions of every function of the module, by demangled name."""
    if shutil.which("objdump") is None:
        pytest.skip("needs objdump")
    listing = subprocess.check_output(["objdump", "-d", "-C", "--no-show-raw-insn", _core.__file__], text=True)
    blocks = re.split(r"\n[0-9a-f]+ <(.*)>:\n", listing)
    return dict(zip(blocks[1::2], blocks[2::2], strict=True))


def built_instruction_sets():
    return _core.build_info()["built"].split(", ")


def packed(code, isa, dtype):
    """How many packed instructions of that dtype work on the widest registers."""
    lines = [line for line in code.splitlines() if REGISTER[isa] in line]
    return sum(m[1] == SUFFIX[dtype] for line in lines if (m := PACKED.search(line)))


def find(functions, isa, pattern):
    """The functions of that build whose name matches; their cold parts, taken only by exceptions, aside."""
    found = [code for name, code in functions.items() if re.search(rf"gradfuse::{isa}::.*{pattern}(?!.*cold)", name)]
    assert found, f"no function of the {isa} build matches {pattern}"
    return found


def class_name(row):
    """'leaky_relu' -> a pattern for LeakyRelu."""
    return "(?i:" + row.replace("_", "") + ")"


@pytest.mark.parametrize("isa", built_instruction_sets())
@pytest.mark.parametrize("dtype", SUFFIX)
@pytest.mark.parametrize("row", gradfuse.activations())
def test_activations(functions, row, dtype, isa):
    for direction in ("forward", "backward"):
        (loop,) = find(functions, isa, rf"{direction}_loop<gradfuse::{isa}::{class_name(row)}, {dtype}>")
        assert packed(loop, isa, dtype) > 0, direction


@pytest.mark.parametrize("isa", built_instruction_sets())
@pytest.mark.parametrize("dtype", SUFFIX)
@pytest.mark.parametrize("name", [spec["name"] for spec in _core.optimizer_list()])
def test_optimizers(functions, name, dtype, isa):
    loops = [key for key in functions if re.search(rf"::update<gradfuse::{isa}::{class_name(name)}, {dtype}, \d", key)]
    assert loops
    for loop in loops:  # one for each set of state arrays
        assert packed(functions[loop], isa, dtype) > 0, loop


@pytest.mark.parametrize("isa", built_instruction_sets())
@pytest.mark.parametrize("dtype", SUFFIX)
@pytest.mark.parametrize("row", [entry["name"] for entry in _core.losses()])
def test_losses(functions, row, dtype, isa):
    (loop,) = find(functions, isa, rf"loss_loop<gradfuse::{isa}::{class_name(row)}, {dtype}>")
    assert packed(loop, isa, dtype) > 0
    assert packed(loop, isa, "double") > 0  # the sum


# What is declared in the shape "reduce, then map", as the loop's first template argument begins.
DECLARED = [f"{class_name(row)}<D>::{way}" for row in _core.row_operations() for way in ("Forward", "Backward")]
DECLARED += ["RmsNorm<D>::Forward", "RmsNorm<D>::Backward", "Normalize<D>", "NormalizeBackward<D>", "BatchNorm<D>"]
DECLARED += [
    "BatchMoments<D>",
    "BatchNormSums<D>",
    "BatchNormFinish<D>",
    "ChannelAffine<D>",
    "ChannelAffineBackward<D>",
]
DECLARED += ["CrossEntropyOfLabels<D>", "CrossEntropyOfProbabilities<D>", "PRelu<D>", "PReluBackward<D>", "MaxNorm<D>"]


@pytest.mark.parametrize("isa", built_instruction_sets())
@pytest.mark.parametrize("dtype", SUFFIX)
@pytest.mark.parametrize("loop", ["Along", "Across"])
@pytest.mark.parametrize("declared", DECLARED)
def test_declarations(functions, declared, loop, dtype, isa):
    """Its loops over elements are packed; where the reduction has functions for itself, each of them.

    Baseline is built for size. There a function may have no loop, and call the one that has it.
    """
    first = declared.replace("<D>", f"<{dtype}>")
    pattern = rf"gradfuse::{isa}::{loop}<gradfuse::{isa}::{first}[,>]"
    found = {name: code for name, code in functions.items() if re.search(pattern, name) and "cold" not in name}
    vectors = {name: sum(packed(code, isa, kind) for kind in SUFFIX) for name, code in found.items()}
    assert sum(vectors.values()) >= 4
    for name, count in vectors.items():
        if re.search(r"::(?:reduce\(|second<|map_position\()", name):
            only_calls = isa == "baseline" and re.search("call .*::(?:second|for_positions)<", found[name])
            assert count > 0 or only_calls, name


OTHERS = ["maxout", "gated_forward", "gated_backward", "dropout_tile<float>"]


@pytest.mark.parametrize("isa", built_instruction_sets())
@pytest.mark.parametrize("name", OTHERS)
def test_other_loops(functions, name, isa):
    assert packed("\n".join(find(functions, isa, name)), isa, "float") > 0


def test_the_check_can_fail():
    scalar = "vmulss %xmm0,%xmm1,%xmm2\nvmulps %ymm0,%ymm1,%ymm2"
    assert packed(scalar, "avx512", "float") == 0
    assert packed(scalar, "avx2", "float") == 1
