# make demo   pack a small real family, rebuild it, compare the scores
# make test   every gate: formatting, types, imports, tests, and the tests on the built wheel
# Both make their own virtual environment in .venv first.

PYTHON ?= python3
BIN := .venv/bin
SHARED := -n auto --dist loadgroup # a process per core; engines are all in one

.PHONY: demo test quick lint wheel-test bench setup clean

setup:
	@$(PYTHON) tools/setup_env.py

demo: setup
	$(BIN)/python examples/demo.py

test: setup lint
	$(BIN)/python -m pytest $(SHARED)
	$(MAKE) wheel-test

quick: setup
	$(BIN)/python -m pytest $(SHARED) -m "not slow"

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The suite again, against the wheel in an environment of its own. Dependencies are those of
# .venv, seen through a .pth file; that file does not make the editable install visible.
wheel-test: setup
	rm -rf build/wheel
	$(BIN)/python -m pip wheel -q --no-deps -w build/wheel .
	$(PYTHON) -m venv --clear build/wheel/venv
	build/wheel/venv/bin/python -m pip install -q --no-deps build/wheel/taskstore-*.whl
	$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" \
	    > build/wheel/venv/lib/$$($(BIN)/python -c "import sys; print('python%d.%d' % sys.version_info[:2])")/site-packages/dependencies.pth
	rm -rf build/wheel/run && mkdir build/wheel/run && cp -r tests examples build/wheel/run/
	cd build/wheel/run && TASKSTORE_EXPECT_INSTALLED=1 \
	    TASKSTORE_FAMILIES=$${TASKSTORE_FAMILIES:-$(CURDIR)/../shared/families} \
	    ../venv/bin/python -m pytest -c $(CURDIR)/pyproject.toml --rootdir . $(SHARED) -m "not slow" tests

bench: setup
	$(BIN)/python benchmarks/pack.py --params 2e8 --tasks 8
	$(BIN)/python benchmarks/swap.py --params 1e7,1e8 --tasks 8

clean:
	rm -rf build dist .venv
