"""The command line; see `python -m benchmarks --help`."""

from __future__ import annotations

import argparse
import os
import sys

from benchmarks import cpu
from benchmarks.cases import case_names
from benchmarks.machine import machine
from benchmarks.options import BOTH_KINDS, add_only, add_output, prepared
from gradfuse.bench import SIZES, Parser, between

DESCRIPTION = f"""Measures gradfuse beside NumPy and the other libraries that are installed. A full run takes about ten
minutes on a CPU, and on a GPU until --deadline. It writes a table, a JSON file and a picture to the folder --output,
which are called cpu-ISA or cuda-GPU. {BOTH_KINDS}"""


def parsed(parser: Parser) -> argparse.Namespace:
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to measure (cpu)")
    add_only(parser)
    add_output(parser)
    on_cpu = parser.add_argument_group("on the CPU")
    on_cpu.add_argument("--where", nargs="+", choices=SIZES, help="where the data fit (all)")
    on_cpu.add_argument("--threads", nargs="+", type=between(1, 1024), help="thread counts (one, and all cores)")
    on_cpu.add_argument("--worker", type=between(1, 1024), help=argparse.SUPPRESS)
    on_cuda = parser.add_argument_group("on a GPU")
    on_cuda.add_argument("--deadline", type=between(1.0, 1e6), help="seconds after which no case begins (300)")
    parser.add_argument("--seconds", type=between(1e-6, 3600.0), default=0.04, help="for each contender (0.04)")
    args = parser.parse_args()
    for name, device in {"where": "cpu", "threads": "cpu", "deadline": "cuda"}.items():
        if args.device != device and getattr(args, name) is not None:
            parser.error(f"argument --{name}: works with --device {device} only")
    args.where = list(dict.fromkeys(args.where or SIZES))
    args.threads = list(dict.fromkeys(args.threads or cpu.thread_counts()))
    args.deadline = args.deadline or 300.0
    return args


def main() -> None:
    parser = Parser(prog="python -m benchmarks", description=DESCRIPTION)
    args = parsed(parser)
    if args.device == "cuda":
        # JAX would take most of the GPU's memory, and PyTorch's compiler start a process for every core.
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
        from benchmarks.cuda import cases, run

        names = cases.case_names()
    else:
        names = case_names()
    args.only = parser.selected(names, args.only)
    if args.list:
        print(*args.only, sep="\n")
    elif args.worker:
        cpu.work(args)
    elif args.device == "cpu":
        prepared(parser, args.output)
        sys.exit(cpu.run(args))
    elif reason := run.why_not():
        parser.error(f"--device cuda: {reason}")
    else:
        prepared(parser, args.output)
        sys.exit(run.run(args, machine(run.PEERS)))


if __name__ == "__main__":
    main()
