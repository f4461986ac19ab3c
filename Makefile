# `make chat` and `make test` do everything on a fresh machine: they need Python >= 3.10, a C++20
# compiler and the package registry. What is made lies in .venv and build; `make clean` removes it.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check install --quiet
CMAKE  := $(BIN)/cmake

# The package is installed editable, so only the native core and the dependencies make stamps stale.
NATIVE := $(shell find kernels -name '*.cpp' -o -name '*.h' -o -name CMakeLists.txt) pyproject.toml

.PHONY: help chat test test-all lint format sanitize neon cross-tools bench clean

help:
	@echo "make chat      build, and chat with the bundled model"
	@echo "make test      build with the development tools, and run the tests"
	@echo "make test-all  the slow tests too"
	@echo "make lint      ruff, mypy and clang-format, changing nothing"
	@echo "make format    ruff and clang-format, in place"
	@echo "make sanitize  the kernel tests under ASan and UBSan"
	@echo "make neon      the kernel tests for 64-bit ARM, cross-compiled, under QEMU"
	@echo "make bench     measure this machine and write docs/benchmarks.md (20 minutes);"
	@echo "               VS=llama.cpp measures that too, in turns"
	@echo "make clean     remove what was made"

chat: $(VENV)/.installed
	@$(BIN)/localllm chat

test: $(VENV)/.developing
	$(BIN)/python -m pytest -m "not slow"

test-all: $(VENV)/.developing
	$(BIN)/python -m pytest

lint: $(VENV)/.developing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	find kernels -name '*.cpp' -o -name '*.h' | xargs $(BIN)/clang-format --dry-run --Werror

format: $(VENV)/.developing
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	find kernels -name '*.cpp' -o -name '*.h' | xargs $(BIN)/clang-format -i

sanitize: $(VENV)/.tools
	PATH="$(CURDIR)/$(BIN):$$PATH" $(CMAKE) -S kernels -B build/sanitize -G Ninja \
		-DLOCALLLM_SANITIZE=ON -DCMAKE_BUILD_TYPE=RelWithDebInfo
	$(CMAKE) --build build/sanitize
	$(BIN)/ctest --test-dir build/sanitize --output-on-failure

# Without sanitizers: the code is the one that is shipped, and emulation is slow enough.
neon: cross-tools $(VENV)/.tools
	PATH="$(CURDIR)/$(BIN):$$PATH" $(CMAKE) -S kernels -B build/neon -G Ninja -DLOCALLLM_TESTS=ON \
		-DCMAKE_TOOLCHAIN_FILE="$(CURDIR)/kernels/cmake/aarch64-linux-gnu.cmake" -DCMAKE_BUILD_TYPE=Release
	$(CMAKE) --build build/neon
	$(BIN)/ctest --test-dir build/neon --verbose

cross-tools:
	@for tool in aarch64-linux-gnu-g++ qemu-aarch64-static; do command -v $$tool >/dev/null || \
		{ echo "$$tool is missing; on Debian: apt-get install g++-aarch64-linux-gnu qemu-user-static" >&2; exit 1; }; done

bench: $(VENV)/.installed
	$(BIN)/python tools/benchmarks.py $(if $(VS),--vs $(VS))

clean:
	rm -rf $(VENV) build

# The build tools stand in the environment itself: a build then finds them in one place each time,
# and compiles only what has changed.
$(VENV)/.tools:
	@$(PYTHON) -c 'import sys; sys.exit("Python >= 3.10 is needed" if sys.version_info < (3, 10) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(PIP) cmake ninja "scikit-build-core>=0.10" "nanobind>=2.4"
	@touch $@

$(VENV)/.installed: $(VENV)/.tools $(NATIVE)
	@echo "Building localllm; the first time takes a few minutes"
	$(PIP) --no-build-isolation --editable .
	@touch $@

$(VENV)/.developing: $(VENV)/.tools $(NATIVE) constraints.txt
	@echo "Building localllm with the development tools; the first time takes a few minutes"
	$(PIP) --no-build-isolation --constraint constraints.txt --editable ".[dev]"
	@touch $(VENV)/.installed $@
