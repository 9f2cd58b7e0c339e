"""A second paper, from plan to verdict; how one is chosen; and what adding to one can get wrong."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from repro import cli, experiments, paper, results
from repro.core import validation
from repro.core.run import RUN_KINDS
from repro.core.scales import runs_at_scale
from repro.launch import code
from repro.paper import NoVersion, Paper, PaperError
from repro.render import tables
from repro.render.frame import tidy
from repro.spec import Cell, Classification, Experiment, Model, Run, Scale, SpecError
from tests.command_line import Capture, error_of, run_command

ROOT = Path(__file__).parents[1]
TINY, RATES = ROOT / "tests/papers/tiny", ROOT / "tests/papers/rates.py"
NEST_T = next(cell for cell in experiments.get("table1").cells if cell.row == "NesT-T")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(paper.VARIABLE, raising=False)
    return tmp_path


def stdout_of_process(line: str, **variables: str) -> str:
    """The output of a command in its own process."""
    words = [sys.executable, "-m", "repro", *line.split()]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | variables
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- a second paper ------------------------------------------------------------------------------


def test_a_second_paper_from_plan_to_verdict() -> None:
    chosen = {"REPRO_PAPER": str(TINY)}
    planned = json.loads(stdout_of_process("plan table1 figure1 --scale proxy --json", **chosen))
    assert len(planned) == 3 + 1 + 6 * 3
    out = stdout_of_process(f"table1 figure1 --scale proxy --launch local --paper {TINY}")
    assert "# Table 1, proxy scale. Accuracy on Fashion-MNIST" in out
    assert Path("figures/proxy/figure1.svg").stat().st_size > 1000
    assert "NesT" not in Path("tables/proxy/table1.md").read_text()
    (claim,) = json.loads(stdout_of_process("claims table1 --scale proxy --json", **chosen))
    assert claim["verdict"] == "holds", claim
    assert {row["run"] for row in planned} <= {path.name for path in Path("results").iterdir()}
    stored = json.loads((Path("results") / planned[-1]["run"] / results.SPEC).read_text())
    assert stored["class"] == "NearestMean"
    assert "all agree" in stdout_of_process(f"verify --paper {TINY}")
    why = stdout_of_process("why table1/ShuffleNet/Fashion --scale proxy", **chosen)
    assert "lr = 0.002: our choice: of 1e-3, 2e-3 and 4e-3 the best" in why


def test_the_second_paper_is_small_and_is_the_page() -> None:
    files = [*TINY.glob("*.py"), RATES]
    assert sum(len(path.read_text().splitlines()) for path in TINY.glob("*.py")) <= 150
    page = (ROOT / "docs/adding-a-paper.md").read_text()
    blocks = dict(re.findall(r'```python title="(.*?)"\n(.*?)```', page, re.DOTALL))
    assert blocks == {str(path.relative_to(ROOT)): path.read_text() for path in files}


def test_a_recipe_with_one_value_changed_is_another_run_of_one_s_own_file() -> None:
    line = f"--paper {RATES} rates --scale smoke --launch local --seeds 1"
    assert "NesT-T, lr 0.002" in stdout_of_process(line)
    specs = [json.loads(p.read_text()) for p in Path("results").glob("nest*/spec.json")]
    assert sorted(spec["recipe"]["lr"] for spec in specs) == [NEST_T.training.recipe.lr, 2e-3]
    assert any(NEST_T.run.id in row["run"] for row in _planned("rates", RATES))


def _planned(item: str, chosen: Path) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = json.loads(
        stdout_of_process(f"plan {item} --json --paper={chosen}")
    )
    return rows


# --- which paper ---------------------------------------------------------------------------------


def test_a_command_s_paper_lasts_as_long_as_the_command(capsys: Capture) -> None:
    assert cli.main(["list", "--paper", str(TINY)]) == 0
    assert "Accuracy by the number of training images" in capsys.readouterr().out
    assert paper.current().name == "NesT"
    assert cli.main(["list"]) == 0
    assert "Table A6" in capsys.readouterr().out


def test_words_after_two_dashes_are_another_command_s() -> None:
    with paper.of_command(["testbed", "--", "repro", "--paper", "x"]) as words:
        assert words == ["testbed", "--", "repro", "--paper", "x"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("absent.py", None, "no such file"),
        ("empty.py", "", "defines no PAPER"),
        ("broken.py", "x = 1\ny = nothing\n", "line 2: NameError: name 'nothing' is not defined"),
        ("json.py", "", "'json' is the name of another module; rename it"),
        ("a-b.py", "", "'a-b' is not a valid module name; rename it"),
        ("open.py", "\nPAPER = (\n", "open.py, line 2: SyntaxError: '(' was never closed"),
        ("ends.py", "raise SystemExit('x')", "ends.py, line 1: SystemExit: x"),
        ("text.txt", "", "not a .py file"),
        (
            "none.py",
            "from repro.paper import *\nPAPER = Paper(name='', title='', experiments={})",
            "has no experiments; add one",
        ),
        (
            "listed.py",
            "from repro.paper import *\nPAPER = Paper(name='', title='', experiments=[1])",
            "`experiments` is a mapping",
        ),
    ],
)
def test_a_paper_that_cannot_be_used_is_one_line(
    name: str, text: str | None, message: str, capsys: Capture
) -> None:
    if text is not None:
        Path(name).write_text(text)
    assert message in error_of(capsys, f"list --paper {name}")


def test_a_module_that_is_none_and_an_option_without_a_path(capsys: Capture) -> None:
    assert "no_paper is not a paper; name a Python file" in error_of(
        capsys, "--paper no_paper list"
    )
    assert "--paper needs the path" in error_of(capsys, "list --paper")


def test_jobs_run_a_copy_of_the_paper(here: Path) -> None:
    before = code.digest()
    assert code.paper_for_jobs(here) == ""
    with paper.of_command(["--paper", str(TINY)]):
        snapshot = code.snapshot(here / "code")
        assert snapshot.name == code.digest() != before
        copy = Path(code.paper_for_jobs(snapshot))
    assert (copy / "task.py").read_text() == (TINY / "task.py").read_text()
    with paper.of_command(["--paper", str(RATES)]):
        assert code.paper_for_jobs(here) == str(here / "paper/rates.py")


# --- adding to a paper ---------------------------------------------------------------------------


def _of(cells: tuple[Cell, ...], name: str = "extra") -> Experiment:
    return Experiment(name=name, place="Extra", title="Extra", caption="", cells=cells)


def test_files_without_a_number_or_an_experiment(here: Path) -> None:
    folder = here / "numberless"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "helpers.py").write_text("VALUE = 1\n")
    for name in ("ablation", "figure2", "table_a1", "table10", "table²"):
        (folder / f"{name}.py").write_text(f"EXPERIMENT = {name!r}\n")
    names = list(paper.folder("numberless", str(folder / "__init__.py")))
    assert names == ["table²", "table10", "table_a1", "figure2", "ablation"]


def test_an_experiment_under_another_name_is_one_line() -> None:
    odd = Paper(name="Odd", title="", experiments={"one": lambda: _of((NEST_T,), "two")})
    with pytest.raises(PaperError, match="the experiment 'one' of Odd is named 'two'; rename one"):
        odd.get("one")


@pytest.mark.parametrize("scale", ["proxy", "demo"])
def test_a_method_without_a_small_version_is_left_out_there(scale: Scale) -> None:
    new = replace(NEST_T, run=replace(NEST_T.training, model=Model("resnet18")))
    assert runs_at_scale([new], scale) == []
    assert len(runs_at_scale([new], "paper")) == len(runs_at_scale([new], "smoke")) == 1


def test_data_without_a_small_version_are_left_out_there() -> None:
    new = replace(NEST_T, run=replace(NEST_T.training, dataset="fashion-mnist"))
    assert [len(runs_at_scale([new], scale)) for scale in ("paper", "demo", "smoke")] == [1, 0, 0]
    with pytest.raises(NoVersion):
        paper.current().at_scale(new.run, "demo")


def test_a_sweep_over_a_recipe_is_no_single_run_at_small_scale() -> None:
    def swept(lr: float, demo: Run | None = None) -> Cell:
        run = replace(NEST_T.training, recipe=replace(NEST_T.training.recipe, lr=lr))
        return replace(NEST_T, row=f"lr {lr:g}", run=run, demo=demo)

    with pytest.raises(SpecError, match=r"'lr 0.001' and 'lr 0.002' differ in lr, but are one run"):
        runs_at_scale([swept(1e-3), swept(2e-3)], "demo")
    ((_, first),) = runs_at_scale([swept(1e-3)], "demo")
    assert isinstance(first, Classification)
    other = replace(first, recipe=replace(first.recipe, lr=9e-3))
    assert len(runs_at_scale([swept(1e-3), swept(2e-3, other)], "demo")) == 2
    assert len({run.id for _, run in runs_at_scale([swept(1e-3), swept(2e-3)], "smoke")}) == 2


def test_a_method_that_the_paper_does_not_have_is_a_dash(here: Path) -> None:
    """Where the paper has numbers that our copy lacks, it says so."""
    new = replace(NEST_T, row="Mine", paper=None)
    item = _of((NEST_T, new))
    frame, _ = tidy(item, "paper", here, 1)
    assert "not in our copy" not in tables.markdown(item, frame, "paper")
    gaps = replace(item, has_gaps=True)
    assert "not in our copy of the paper" in tables.markdown(gaps, frame, "paper")


# --- a paper with a mistake ----------------------------------------------------------------------

MISTAKEN = """
from dataclasses import dataclass, replace
from typing import ClassVar
from repro.core.run import Run
from repro.paper import Paper, items
from repro.spec import Cell, Cited, Claim, Classification, Experiment, Model, PaperValue, Recipe

RECIPE = Recipe(epochs=3, batch_size=64, lr=2e-3, weight_decay=0.05, warmup_epochs=0.5)

def trained(**values):
    recipe = replace(RECIPE, **values)
    return Classification(model=Model.of("resnet18"), dataset="glyphs", recipe=recipe)

def cell(row="a", column="x", **values):
    return Cell(**{"row": row, "column": column, "run": trained()} | values)

def item(name="mine", *cells, **values):
    cells = values.pop("cells", cells or (cell(),))
    return Experiment(name=name, place="", title="", caption="", cells=cells, **values)

@dataclass(frozen=True, kw_only=True)
class Own(Run):
    kind: ClassVar[str] = "own"
    task: ClassVar[str] = "none"
    name: str = "own"
    value: str | None = None
    number: int = 0
    @property
    def slug(self):
        return self.name

class Bare(Own):
    kind: ClassVar[str] = "bare"

def broken(*_):
    return {}["nothing"]

at_scale = lambda run, scale: run
"""


@pytest.mark.parametrize(
    ("experiments", "message"),
    [
        ("item('list')", "the item 'list' has the name of a command"),
        ("item('all')", "not a name of an item"),
        ("item('../up')", "not a name of an item"),
        ("item('Big')", "not a name of an item"),
        ("item('a' * 300)", "not a name of an item"),
        ("item(), item()", "two experiments are named 'mine'"),
        ("item(cells=())", "no cells"),
        ("item(cells=cell())", "no cells"),
        ("item(cells=(3,))", "3 is not a Cell"),
        ("item('mine', cell(), cell())", "two cells at ('a', 'x', '')"),
        ("item('mine', cell(run='a run'))", "'a run' is not a Run"),
        ("item('mine', cell(scales=()))", "`scales` is ()"),
        ("item('mine', cell(paper=PaperValue('87', 'Table 1')))", "the paper's value is '87'"),
        ("item('mine', cell(run=trained(batch_size=0)))", "ZeroDivisionError"),
        ("item('mine', cell(run=trained(epochs='3')))", "mine: 'a', 'x': "),
        ("item('mine', cell(run=trained(lr=float('nan'))))", "mine: 'a', 'x': "),
        ("item('mine', cell(run=Own(value={1, 2})))", "mine: 'a', 'x': "),
        ("item('mine', cell(run=Own(name='../up')))", "the run's id is '../up-"),
        ("item('mine', cell(run=Own(name='a' * 300)))", "the run's id is 'aaa"),
        ("item('mine', cell(run=Bare()))", "Bare is not a frozen dataclass"),
        ("item(claims=(Claim('It wins', '', '', (), ()),))", "`above` is empty"),
        ("item(claims=(Claim('It wins', '', '', (('a', 'x'),), ()),))", "needs a `min_effect`"),
        ("item(claims=(Claim('', '', '', (('a', 'y'),), (('a', 'x'),)),))", "('a', 'y'), which is"),
        ("item(cited=(Cited('b', 'y', 3.0, ''),))", "the column 'y', which no cell has"),
        ("item(plot='pie')", "no plot 'pie'; choose from lines, bars"),
        ("item(), at_scale=broken", "an error in the paper: "),
    ],
)  # fmt: skip
def test_a_mistake_in_a_paper_is_one_line_of_every_command(
    experiments: str, message: str, capsys: Capture
) -> None:
    found, _, rule = experiments.partition(", at_scale=")
    paper_line = (
        f"PAPER = Paper(name='P', title='', experiments=items({found}), "
        f"at_scale={rule or 'at_scale'})\n"
    )
    name = f"mistaken_{abs(hash(experiments))}.py"
    Path(name).write_text(MISTAKEN + paper_line)
    for command in ("plan all --scale proxy", "status", "all --scale proxy --out o --results r"):
        assert message in error_of(capsys, f"{command} --paper {name}"), command
    for kind in ("Own", "Bare"):
        RUN_KINDS.pop(kind, None)


def test_the_default_paper_is_valid() -> None:
    default = paper.current()
    problems = {name: validation.problem_of(default.get(name)) for name in default.names()}
    assert not any(problems.values()), problems


def test_an_error_of_the_engine_is_not_the_paper_s(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ZeroDivisionError), paper.of_command(["--paper", str(TINY)]):
        raise ZeroDivisionError


def test_an_item_is_no_word_of_a_command(capsys: Capture) -> None:
    assert "'plan' is a command, not an item; name it first" in error_of(capsys, "table1 plan")
    status, out, _ = run_command(capsys, "help plan")
    assert (status, out.startswith("usage: repro plan")) == (0, True)


RESULTS_OF_A_TASK = """
def execute(run, job):
    from repro.tasks import Result
    return [
        lambda: Result("done", {"top1": 3.0}),
        lambda: Result("odd", {"top1": 3.0}),
        lambda: Result("done", {"Top 1": 3.0}),
        lambda: Result("done", {"top1": "x"}),
        lambda: None,
    ][run.number]()

names = ["top1"] * 5 + ["top5"]
cells = [cell("r", metric=name, run=Own(number=n)) for n, name in enumerate(names)]
cells[5] = replace(cells[5], run=Own(number=0))
PAPER = Paper(name="P", title="", at_scale=at_scale, experiments=items(
    *[item(f"item{n}", cell) for n, cell in enumerate(cells)]))
"""


def test_a_result_that_could_not_be_read_again_is_a_failure_of_its_run() -> None:
    Path("returns.py").write_text(MISTAKEN.replace('"none"', '"returns"') + RESULTS_OF_A_TASK)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "repro", "all", "--paper", "returns.py", "--launch", "local"]
    done = subprocess.run(
        [*words, "--seeds", "1"], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 1, done.stderr
    assert done.stderr.count(" failed: ") == 4, done.stderr
    assert "Invalid enum value 'odd'" in done.stderr
    assert "returns.execute returned None, not a Result" in done.stderr
    assert "has no metric 'top5'; correct the metric of the cell" in done.stderr
    assert len(list(Path("results").glob("*/result.json"))) == 1
