# `make` or `make help` lists the targets. Each makes the environment that it needs first:
# .venv for the gates, .venv-demo for the demo where .venv is not there.

PYTHON ?= python3
BIN := .venv/bin
SHARED := -n auto --dist loadgroup # a process per core; engines are all in one
TIERS ?= auto

.DEFAULT_GOAL := help
.PHONY: help demo test quick lint docs wheel-test bench setup versions extras lock clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

demo: ## pack a small real family, rebuild it, compare the scores, swap a live model (TIERS=mask)
	@python=$$($(PYTHON) tools/setup_env.py --demo) \
	    && PYTHONDONTWRITEBYTECODE= "$$python" examples/demo.py --out build/demo --tiers $(TIERS)

test: setup lint ## every gate: format, types, imports, tests, tests on the built wheel
	$(BIN)/python -m pytest $(SHARED)
	$(MAKE) wheel-test

quick: setup ## the tests without the slow ones
	$(BIN)/python -m pytest $(SHARED) -m "not slow"

lint: setup ## format, lint, strict types, who may import whom
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: setup ## build the documentation into build/docs; a warning is an error
	$(BIN)/python -m sphinx -q -W --keep-going docs build/docs

# The suite again, against the wheel in an environment of its own. Dependencies are those of
# .venv, seen through a .pth file; that file does not make the editable install visible. The wheel takes the
# loops that `setup` compiled, which come out of the same CMakeLists.txt with the same options.
wheel-test: setup ## build the wheel and run the tests without the slow ones against it
	rm -rf build/wheel
	$(BIN)/python -m pip wheel -q --no-deps -w build/wheel --no-build-isolation \
	    -C build-dir=$$($(BIN)/python tools/build_native.py --folder) .
	$(PYTHON) -m venv --clear build/wheel/venv
	build/wheel/venv/bin/python -m pip install -q --no-deps build/wheel/taskstore-*.whl
	$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" \
	    > build/wheel/venv/lib/$$($(BIN)/python -c "import sys; print('python%d.%d' % sys.version_info[:2])")/site-packages/dependencies.pth
	rm -rf build/wheel/run && mkdir build/wheel/run && cp -r tests examples build/wheel/run/
	cd build/wheel/run && TASKSTORE_EXPECT_INSTALLED=1 \
	    TASKSTORE_FAMILIES=$${TASKSTORE_FAMILIES:-$(CURDIR)/../shared/families} \
	    ../venv/bin/python -m pytest -c $(CURDIR)/pyproject.toml --rootdir . $(SHARED) -m "not slow" tests

bench: setup ## time packing and swapping; the other benchmarks: benchmarks/README.md
	$(BIN)/python benchmarks/pack.py --params 2e8 --tasks 8
	$(BIN)/python benchmarks/swap.py --params 1e7,1e8 --tasks 8

setup: ## make .venv, with all that the gates need
	@$(PYTHON) tools/setup_env.py > /dev/null

versions: setup ## the tests with the lowest and the newest versions that are allowed (uv; slow)
	$(BIN)/python tools/versions.py

extras: ## install each extra in an environment of its own and run its first command (slow)
	$(PYTHON) tools/extras.py

# vLLM's build for the CPU asks for torch's, which lies on PyTorch's index alone: torch is resolved from
# there and left out of the lock, as its pin is TORCH in tools/setup_env.py.
TORCH_FROM ?= --torch-backend cpu
lock: setup ## write requirements-dev.lock anew: versions and hashes of all that the gates need (uv)
	$(BIN)/uv pip compile -q --no-config --universal --python-version 3.11 --extra dev --generate-hashes \
	    --default-index https://pypi.org/simple $(TORCH_FROM) --no-emit-package torch --no-annotate \
	    --custom-compile-command "make lock" pyproject.toml -o requirements-dev.lock

clean: ## remove what was built, both environments included
	rm -rf build dist .venv .venv-demo
