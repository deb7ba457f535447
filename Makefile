# make demo | make test | make check: each sets up .venv when it is missing, broken or out of date, and reuses it otherwise.

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed

.PHONY: help demo test check clean

help:
	@echo "make demo   log a mediocre controller, learn a simulator, rehearse a policy in it, judge it (no network after set-up)"
	@echo "make test   make check, then the tests"
	@echo "make check  formatting, lint and types"
	@echo "make clean  remove .venv and the caches of the tools; your logs and runs stay"

demo: $(STAMP)
	$(BIN)/mbrl demo

# One thread: small tensors on shared cores are many times slower with more. Two processes, file by file in the order of
# collection: sorted by their number of tests, whole runs, which are few and long, would come last and leave one idle.
test: export OMP_NUM_THREADS := 1
test: export MLFLOW_ALLOW_PICKLE_DESERIALIZATION := false
test: check
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache build dist

# The stamp is written last and holds the place it was made for, so that a .venv that was interrupted, moved, copied or
# lost its Python is made again.
ifneq ($(shell $(BIN)/python -c 'print(open("$(STAMP)").read().strip())' 2>/dev/null),$(CURDIR))
.PHONY: $(STAMP)
endif

# The build backend comes first, from the same pins: how pip pins an isolated build has changed between its versions.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt hatchling editables
	$(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --no-build-isolation --editable '.[mujoco,test]'
	$(BIN)/python -m pip check
	@echo "$(CURDIR)" > $@
