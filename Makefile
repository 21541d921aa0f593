PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

SANITIZED := g++ -fsanitize=address,undefined -fno-sanitize-recover=all

.PHONY: setup demo test test-slow test-sanitizers test-arm test-cpus test-gpu-offline wheel test-wheel lint bench clean

setup: $(READY)  ## make .venv with everything the project needs

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt "setuptools>=69" torch
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--no-build-isolation --editable '.[dev]'
	touch $(READY)

demo: $(READY)  ## quantize a small VGGT, compare, reconstruct: runs/demo/report.html
	$(BIN)/quantvggt demo --output runs/demo

test: $(READY)  ## everything but the slow checks
	$(BIN)/python -m pytest

test-slow: $(READY)  ## full-size models: 12 GB of memory, several minutes
	$(BIN)/python -m pytest -m slow

test-sanitizers: $(READY)  ## the kernels' tests, native code checked at every access: g++, several minutes
	CXX="$(SANITIZED)" XDG_CACHE_HOME="$(CURDIR)/$(VENV)/sanitized" ASAN_OPTIONS=detect_leaks=0 \
		LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libubsan.so)" \
		$(BIN)/python -m pytest tests/kernels \
		--ignore tests/kernels/test_memory.py --ignore tests/kernels/triton  # no limiting its memory; no code of ours

test-arm: $(READY)  ## the kernels' tests on ARM, under qemu: g++-aarch64-linux-gnu, qemu-user, 7 minutes of a core
	$(BIN)/python -m pytest tests/kernels -m slow -k qemu

# What makes PyTorch and its libraries compute as other CPUs do, or (CPU=this) as this one does.
CPUS := CPU=this ATEN_CPU_CAPABILITY=default ATEN_CPU_CAPABILITY=avx2 MKL_CBWR=COMPATIBLE MKL_CBWR=AVX2 \
	ONEDNN_MAX_CPU_ISA=AVX2 OMP_NUM_THREADS=1

# All folders, so that none is forgotten, but the two whose tests look at no number that was computed.
test-cpus: $(READY)  ## the tests that compute with floats, once for each of CPUS: an hour or so
	failed=; for cpu in $(CPUS); do echo "== $$cpu"; \
		env $$cpu $(BIN)/python -m pytest --ignore=tests/bench --ignore=tests/viewer || failed="$$failed $$cpu"; \
	done; test -z "$$failed" || { echo "failed under:$$failed"; exit 1; }

test-gpu-offline: $(READY)  ## every GPU kernel compiled for every chip that has tiles of its own, without a GPU: several minutes
	$(BIN)/python -m pytest -m slow tests/kernels/triton

wheel: $(READY)  ## dist/*.whl with the native library inside, for machines without a compiler: Linux, g++
	rm -rf build dist
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--no-build-isolation --editable '.[dev,wheel]'
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python tools/make_wheel.py

# Installed, and with nothing on PATH but itself: no compiler, so that what runs natively came with the wheel.
INSTALLED := $(CURDIR)/$(VENV)/installed
test-wheel: wheel  ## the kernels' tests with that wheel in an environment of its own: downloads PyTorch
	rm -rf $(INSTALLED) && $(PYTHON) -m venv $(INSTALLED)
	$(INSTALLED)/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt dist/*.whl pytest hypothesis
	ls $(INSTALLED)/lib/python*/site-packages/quantvggt/kernels/cpu/prebuilt/kernels.so
	env -i PATH="$(INSTALLED)/bin" XDG_CACHE_HOME="$(INSTALLED)/cache" \
		$(INSTALLED)/bin/python -m pytest tests/kernels tests/test_package.py --ignore tests/kernels/triton  # not in the library

lint: $(READY)  ## formatting, style, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(READY)  ## measure; each prints a table and ends in one JSON line; gpu.py is for machines with a GPU
	set -e; for script in $(filter-out benchmarks/gpu.py,$(wildcard benchmarks/*.py)); do echo "== $$script"; $(BIN)/python $$script; done

clean:
	rm -rf $(VENV) runs build dist src/*.egg-info
