# Every task is one command: `make help` lists them.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help demo examples docs build test test-emulated bench gpu wheel sanitize format lint stubs clean

# For which GPUs nvcc builds here, where there is one: those of this machine, or one kind, to be quick.
CUDA_ARCHITECTURES ?= $(if $(shell nvidia-smi -L 2>/dev/null),native,90-real)

SOURCES := $(shell find cmake csrc python tools -type f -not -name '*.pyc' -not -name '*.so') CMakeLists.txt pyproject.toml

CPP := 'csrc/*.h' 'csrc/*.cpp' 'csrc/*.cu' 'csrc/*.cuh' 'tests/emulator/*.h' 'tests/emulator/*.cpp'

help:  ## list these commands
	@sed -n 's/^\([a-z-]*\):.*##/\1:/p' $(MAKEFILE_LIST) | awk -F: '{printf "make %-15s%s\n", $$1, $$2}'

demo: $(VENV)/.built  ## train on handwritten digits and show the result
	$(BIN)/python examples/digits.py

examples: $(VENV)/.built  ## run every example that draws a figure, one after the other, into docs/figures
	for example in $$(grep -l 'figure_path(__file__)' examples/*.py); do $(BIN)/python $$example || exit; done

docs: $(VENV)/.docs  ## the documentation, in build/docs; warnings are errors
	$(BIN)/sphinx-build -W --keep-going -b html docs build/docs

build: $(VENV)/.built  ## build and install gradfuse into the virtual environment

test: $(VENV)/.built test-emulated  ## the whole test suite
	$(BIN)/python -m pytest -n auto --dist worksteal $(TESTS)

test-emulated: $(VENV)/.tools  ## the tests of the functions and optimizers, their CUDA kernels run on the host
	PYTHON=$(BIN)/python tools/variant.sh emulated -DGRADFUSE_CUDA=EMULATED -DGRADFUSE_ISAS=baseline
	PYTHONPATH=build/emulated/python $(BIN)/python -m pytest -n auto --dist worksteal -k cuda-emulated $(TESTS) || [ $$? = 5 ]  # 5: none

bench:  ## measure against NumPy, PyTorch and JAX for twenty minutes; writes benchmarks/results
	$(MAKE) VENV=.venv-bench .venv-bench/.bench
	.venv-bench/bin/python -m benchmarks --output benchmarks/results
	.venv-bench/bin/python -m benchmarks.training --output benchmarks/results
	.venv-bench/bin/python -m benchmarks.busy --output benchmarks/results

gpu:  ## build for this machine's GPU, test and measure there; OUTPUT=folder for the results
	tools/gpu.sh $(or $(OUTPUT),benchmarks/results)

wheel: $(VENV)/.tools  ## a wheel in dist, CUDA kernels for every architecture included where nvcc is found
	$(PIP) wheel --quiet --no-build-isolation --no-deps --wheel-dir dist --config-settings=install.strip=true \
		"--config-settings=cmake.define.GRADFUSE_CUDA_ARCHITECTURES=80-real;90-real;100-real;120-real" .

sanitize: $(VENV)/.tools  ## the extension's tests under address, undefined-behavior and thread sanitizers
	PYTHON=$(BIN)/python tools/sanitize.sh $(SANITIZERS)

format: $(VENV)/.tools  ## bring sources into the project's form
	$(BIN)/ruff format . && $(BIN)/ruff check --fix --select I .
	git ls-files $(CPP) | xargs $(BIN)/clang-format -i

lint: $(VENV)/.built  ## form, style, types and stubs, as CI checks them
	$(BIN)/ruff format --check . && $(BIN)/ruff check .
	git ls-files $(CPP) | xargs $(BIN)/clang-format --dry-run --Werror
	$(BIN)/mypy
	$(BIN)/python tools/generate.py --check

stubs: $(VENV)/.built  ## generate the stubs and the README's tables from the lists
	$(BIN)/python tools/generate.py

clean:  ## remove what was built
	rm -rf build dist .venv*/.built python/gradfuse/*.so

# The environment: the build's and the tools' packages, then gradfuse itself, built again whenever a source changes.
$(VENV)/.tools: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --upgrade "pip>=25.1"
	$(PIP) install --quiet --group build --group dev
	touch $@

$(VENV)/.built: $(VENV)/.tools $(SOURCES)
	$(PIP) install --quiet --no-build-isolation --no-deps --force-reinstall \
		--config-settings=cmake.define.GRADFUSE_CUDA_ARCHITECTURES=$(CUDA_ARCHITECTURES) .
	touch $@

$(VENV)/.bench: $(VENV)/.built
	$(PIP) install --quiet --group bench
	touch $@

$(VENV)/.docs: $(VENV)/.built
	$(PIP) install --quiet --group docs
	touch $@
