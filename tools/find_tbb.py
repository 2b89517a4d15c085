"""Prints the folder of TBBConfig.cmake in the wheel tbb-devel, nothing where it is not installed."""

from importlib.metadata import PackageNotFoundError, distribution

try:
    files = distribution("tbb-devel").files or []
    print(*[f.locate().resolve().parent for f in files if f.name == "TBBConfig.cmake"])
except PackageNotFoundError:
    pass
