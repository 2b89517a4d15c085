"""The machine code of the CUDA kernels in the built extension, as cuobjdump shows it."""

import re
import shutil
import subprocess
import sysconfig
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from gradfuse import _core

WIDE_LOAD, WIDE_STORE = re.compile(r"LDG?\.E\.128"), re.compile(r"STG?\.E\.128")
NARROW = re.compile(r"(LD|ST)G?\.E(?!\.128)")


@dataclass(frozen=True)
class Kernel:
    name: str  # demangled, without namespaces
    registers: int
    stack: int  # bytes of local memory: spilled registers
    instructions: list[tuple[int, str]]  # address and text

    def way(self, loads: int, stores: int) -> list[str]:
        """The longest way without a loop that loads and stores so many whole vectors, and no single elements."""
        index = {address: k for k, (address, _) in enumerate(self.instructions)}
        reached: list[dict[tuple[int, int], tuple[int, int | None, tuple[int, int] | None]]]
        reached = [{} for _ in range(len(self.instructions) + 1)]
        reached[0][0, 0] = (0, None, None)
        best: tuple[int, int, tuple[int, int]] | None = None
        for k, (_, text) in enumerate(self.instructions):
            operation, conditional = operation_of(text), text.startswith("@")
            if NARROW.match(operation):
                continue
            for at, (count, _, _) in list(reached[k].items()):
                there = (at[0] + bool(WIDE_LOAD.match(operation)), at[1] + bool(WIDE_STORE.match(operation)))
                count += operation != "NOP"
                next_ones = [k + 1]
                if operation == "EXIT":
                    if there == (loads, stores) and (best is None or count > best[0]):
                        best = (count, k, at)
                    next_ones = [k + 1] if conditional else []
                elif operation.startswith("BRA"):
                    target = index.get(int(re.search(r"0x([0-9a-f]+)", text)[1], 16), -1)
                    next_ones = ([k + 1] if conditional else []) + ([target] if target > k else [])
                for n in next_ones:
                    if reached[n].get(there, (-1,))[0] < count:
                        reached[n][there] = (count, k, at)
        assert best, f"{self.name} has no such way"
        _, k, at = best
        texts = []
        while k is not None:
            texts.append(self.instructions[k][1])
            _, k, at = reached[k][at]
        return [text for text in reversed(texts) if operation_of(text) != "NOP"]


def operation_of(text: str) -> str:
    words = text.split()
    return words[1] if words[0].startswith("@") else words[0]


def bytes_in_flight(way: list[str]) -> int:
    """What a thread has loaded in whole vectors before it uses the first of them."""
    registers: set[int] = set()
    for text in way:
        load = WIDE_LOAD.match(operation_of(text))
        numbers = [int(n) for n in re.findall(r"\bR(\d+)", text)]
        if load:
            registers |= set(range(numbers[0], numbers[0] + 4))
        elif registers & set(numbers):
            break
    return 4 * len(registers)


def tool(name: str) -> str | None:
    packages = Path(sysconfig.get_path("purelib")) / "nvidia"
    return next(map(str, packages.glob(f"*/bin/{name}")), None) or shutil.which(name)


def why_not() -> str:
    """Why the machine code cannot be read here; empty if it can."""
    if not _core.build_info()["cuda"].startswith("CUDA"):
        return "needs kernels built by nvcc"
    return "" if tool("cuobjdump") and shutil.which("c++filt") else "needs cuobjdump and c++filt"


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@cache
def kernels() -> list[Kernel]:
    """All kernels for the first architecture that the extension was built for."""
    resources = {}
    for name, text in re.findall(
        r"Function (\S+):\s+(REG:.*)", _output(tool("cuobjdump"), "-res-usage", _core.__file__)
    ):
        used = dict(re.findall(r"(\w+):(\d+)", text))
        resources.setdefault(name, (int(used["REG"]), int(used["STACK"])))
    code = {}
    for part in re.split(r"\n\s*Function : ", _output(tool("cuobjdump"), "-sass", _core.__file__))[1:]:
        name, text = part.split("\n", 1)
        lines = re.findall(r"/\*([0-9a-f]{4,6})\*/\s+(.*?)\s*;", text)
        code.setdefault(name.strip(), [(int(address, 16), line) for address, line in lines])
    plain = subprocess.run(["c++filt"], input="\n".join(code), capture_output=True, text=True, check=True).stdout
    short = re.sub(r"gradfuse::(cuda::)?(device::)?|\(anonymous namespace\)::", "", plain).splitlines()
    found = []
    for mangled, name in zip(code, short, strict=True):
        kernel = re.match(r"void (?:device::)?entry<(.*) ?>\(", name)
        if kernel:
            found.append(Kernel(kernel[1], *resources[mangled], code[mangled]))
    return found
