"""Prints, of the wheel tbb-devel, the folder of TBBConfig.cmake and the licence; nothing where it is not installed."""

from importlib.metadata import PackageNotFoundError, distribution

try:
    files = distribution("tbb-devel").files or []
    config, licence = (next(f for f in files if f.name == name) for name in ("TBBConfig.cmake", "LICENSE.txt"))
    print(config.locate().resolve().parent, licence.locate().resolve(), sep=";")
except (PackageNotFoundError, StopIteration):
    pass
