# Two commands: `make table1` trains and draws Table 1 in small; `make test` runs the tests.
# Two threads on two busy cores are slower than one, so each process gets one.
export OMP_NUM_THREADS ?= 1
BIN := .venv/bin
TRIAL := build/table1

.PHONY: table1 test check format paper bench golden clean

table1: .venv/ready  ## train one method of every family at proxy scale, and draw Table 1 from that
	$(BIN)/repro table1 --launch local --scale proxy --only showcase --seeds 1 \
	  --results $(TRIAL)/results --out $(TRIAL)

test: .venv/ready  ## every test
	$(BIN)/pytest -n 2

check: .venv/ready  ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: .venv/ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

paper: .venv/ready  ## redraw every committed table; fails if one differs
	$(BIN)/repro table1 > /dev/null
	$(BIN)/repro table1 --scale proxy > /dev/null
	git diff --exit-code -- tables figures

bench: .venv/ready  ## measure what the benchmarks measure; nothing is timed in a test
	for file in benchmarks/*.py; do $(BIN)/python $$file; done

clean:
	rm -rf .venv build

.venv/ready: pyproject.toml constraints.txt scripts/setup
	sh scripts/setup
