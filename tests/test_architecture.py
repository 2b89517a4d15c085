"""What CONTRIBUTING says of the sources: who may name a device, and where an operation is found."""

import re
from pathlib import Path

import pytest

CSRC = Path(__file__).resolve().parent.parent / "csrc"
pytestmark = pytest.mark.skipif(not CSRC.exists(), reason="needs the source tree")

CODE_WITHOUT = re.compile(r'//[^\n]*|R?"(?:\\.|[^"\\\n])*"')  # comments and texts


def code(path):
    text = path.read_text()
    includes = "\n".join(re.findall(r'#include "[^"]*"', text))
    return includes + "\n" + CODE_WITHOUT.sub("", text)


def sources(*folders):
    return sorted(p for folder in folders for p in (CSRC / folder).rglob("*") if p.suffix in (".h", ".cpp", ".cu"))


@pytest.mark.parametrize("path", sources("formulas"), ids=lambda p: p.name)
def test_no_formula_includes_a_device(path):
    assert not re.search(r'#include "(cpu|cuda|bindings)/', code(path))
    assert "cuda" not in code(path).lower()


# Arrays of other libraries come with their devices: foreign.cpp reads them, dlpack.h is their format.
NAMES_CUDA = {"foreign.cpp", "dlpack.h"}


@pytest.mark.parametrize("path", sources("bindings"), ids=lambda p: p.name)
def test_no_binding_names_a_device(path):
    assert ("cuda" in code(path).lower()) == (path.name in NAMES_CUDA)


def test_core_includes_no_device():
    for path in sources("core"):
        assert not re.search(r'#include "(cpu|cuda|bindings)/', code(path)), path.name


def test_the_same_operation_has_the_same_file_name():
    cpu, cuda = ({p.stem for p in (CSRC / device / "kernels").iterdir()} for device in ("cpu", "cuda"))
    assert cuda - cpu == {"copy"}  # what is not dense is copied before a kernel sees it
    assert not cpu - cuda


# Functions of math.h that only math.h and loops call.
INTERNAL = {"to_bits", "from_bits", "power_of_two", "even", "horner", "polynomial", "reduce", "expm1_reduced"}
INTERNAL |= {"sigmoid_within", "gauss", "log_sum", "log_limits", "bounds", "exp_tail", "tanh_tail", "log1p_tail"}
INTERNAL |= {"mills_quotient", "mills", "erf_tail", "fast_exp2", "fast_reciprocal"}


def test_every_function_of_formulas_has_an_overload_for_16_bits():
    definition = re.compile(r"^GRADFUSE_HD (?:const )?[\w<>&]+ (\w+)\(", re.MULTILINE)
    functions, overloads = (
        set(definition.findall((CSRC / path).read_text())) for path in ("core/math.h", "cuda/approximate.cuh")
    )
    assert functions == overloads | INTERNAL
