# Two commands: `make table1` trains and draws Table 1 in small; `make test` runs the tests.
# Two threads on two busy cores are slower than one, so each process gets one.
export OMP_NUM_THREADS ?= 1
BIN := .venv/bin
TRIAL := build/table1
AGAINST ?= 2f69cc6  # the commit beside which Table 1's training steps are measured

.PHONY: table1 test check format paper bench chaos clean

table1: .venv/ready  ## train one method of every family at proxy scale, and draw Table 1 from that
	$(BIN)/repro table1 --launch local --scale proxy --only showcase --seeds 1 \
	  --results $(TRIAL)/results --out $(TRIAL)

test: .venv/ready  ## every test
	$(BIN)/pytest -n 2 --dist loadfile

check: .venv/ready  ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: .venv/ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

paper: .venv/ready  ## redraw every committed table; fails if one differs
	$(BIN)/repro all > /dev/null
	$(BIN)/repro table1 figure2 figure3 figure4 figure5_left figure5_middle figure5_right \
	  figure6_bottom figure7 figure_a3 figure_a5 figure_a6 --scale proxy > /dev/null
	git diff --exit-code -- tables figures
	test -z "$$(git status --porcelain -- tables figures)"  # nor is one missing from git

bench: .venv/ready  ## measure this code beside what else there is, and draw docs/performance.md
	$(BIN)/repro bench all --against $(AGAINST) --write docs/performance.md

chaos: .venv/ready  ## 200 faults on a real SLURM, drawn from a seed; about half an hour
	$(BIN)/python benchmarks/chaos.py --faults 200 --out benchmarks/chaos.txt

clean:
	rm -rf .venv build

.venv/ready: pyproject.toml constraints.txt scripts/setup
	sh scripts/setup
