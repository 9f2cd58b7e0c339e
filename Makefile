# Two commands: `make table1` trains and renders a small Table 1; `make test` runs the tests.
# Two threads on two busy cores are slower than one, so each process gets one.
export OMP_NUM_THREADS ?= 1
BIN := .venv/bin
TRIAL := build/table1
AGAINST ?= 2f69cc6  # the commit beside which Table 1's training steps are measured

.PHONY: table1 test check docs format paper verify bench chaos clean

table1: .venv/ready  ## train one method of every family at demo scale, and render Table 1
	$(BIN)/repro table1 --launch local --scale demo --only showcase --seeds 1 \
	  --results $(TRIAL)/results --out $(TRIAL)

# More workers than cores: the tests of SLURM and of kills spend most of their time waiting.
test: .venv/ready  ## every test
	$(BIN)/pytest -n 4 --dist loadfile --no-loadscope-reorder

check: .venv/ready  ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: .venv/ready  ## the site, into build/site; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

format: .venv/ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

paper: .venv/ready  ## render every committed table and figure again
	$(BIN)/repro all > /dev/null
	$(BIN)/repro all --scale proxy > /dev/null
	$(BIN)/repro $(basename $(notdir $(wildcard tables/demo/*.md))) --scale demo > /dev/null
	$(BIN)/python scripts/readme_table.py

verify: .venv/ready  ## check that every committed table and figure follows from the runs
	$(BIN)/repro verify
	$(BIN)/python scripts/readme_table.py
	git diff --exit-code -- README.md

bench: .venv/ready  ## benchmark this code against timm and others, and render docs/performance.md
	$(BIN)/repro bench all --against $(AGAINST) --write docs/performance.md

chaos: .venv/ready  ## 200 faults on a real SLURM, drawn from a seed; about half an hour
	$(BIN)/python benchmarks/chaos.py --faults 200 --out benchmarks/chaos.txt

clean:
	rm -rf .venv build

.venv/ready: pyproject.toml constraints.txt scripts/setup
	sh scripts/setup
