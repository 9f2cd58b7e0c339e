"""The seam between the engine and a paper: what the engine needs of one, and which is in use.

The engine imports this module and never a paper. `use`, `--paper` and REPRO_PAPER choose another
than the default: a Python file or package, by its path, or a module that can be imported. It
defines `PAPER` and imports its own kinds of run.
docs/adding-a-paper.md walks through one.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from repro.core import validation
from repro.spec import Cell, Classification, Decision, Experiment, Run, Scale, SpecError

VARIABLE = "REPRO_PAPER"
DEFAULT = "repro.experiments"
_ENGINE = Path(__file__).parent

Sources = tuple[tuple[str, str], ...]  # of recipe values: (name, where it is from)
Items = Mapping[str, Callable[[], Experiment]]


class PaperError(SpecError):
    """A paper that cannot be loaded, or is not in order; one line with the next step."""


class NoVersion(KeyError):
    """A run has no version at a scale; its cell is left out there."""


def _paper_scale_only(run: Run, scale: Scale) -> Run:
    raise NoVersion(f"{run.id} has no version at {scale} scale")


def _sources_of_cell(cell: Cell, _: Scale) -> Sources:
    return cell.sources


def _none_awaited(_: str, __: Scale) -> str:
    return ""


def _no_decisions(_: Experiment) -> tuple[Decision, ...]:
    return ()


def _no_releases() -> dict[str, Classification]:
    return {}


def _common_notes() -> Mapping[Scale, str]:
    return SCALE_NOTES


SEEDS: Mapping[Scale, int] = {"paper": 3, "proxy": 3, "demo": 1, "smoke": 1}
SCALE_NOTES: Mapping[Scale, str] = {
    "paper": "",
    "proxy": "Proxy scale: small versions of the same runs. The numbers are not comparable with "
    "the paper's",
    "demo": "Demo scale: small versions of the same runs, to show that all of it works. The "
    "numbers support no verdict and are not comparable with the paper's",
    "smoke": "Smoke scale: a few steps on a few images, to show that everything runs. "
    "The numbers mean nothing.",
}


@dataclass(frozen=True, kw_only=True)
class Paper:
    """What the engine needs of a paper. `name`, `title` and `experiments` have no default."""

    name: str  # short, for messages
    title: str  # after the program's name in its help
    experiments: Items  # by name, in the paper's order; see `folder` and `items`
    # Modules that register architectures with timm, imported before a run is carried out.
    models: tuple[str, ...] = ()
    # The run at a scale below its own. Raises NoVersion where it has none.
    at_scale: Callable[[Run, Scale], Run] = _paper_scale_only
    # Where each value of the recipe of a cell's run at a scale is from.
    sources: Callable[[Cell, Scale], Sources] = _sources_of_cell
    seeds: Mapping[Scale, int] = field(default_factory=lambda: SEEDS)  # without --seeds
    # The item whose results an item (by name) waits for at a scale; '' if none.
    awaits: Callable[[str, Scale], str] = _none_awaited
    data_titles: Mapping[str, str] = field(default_factory=dict)  # of its own data sets, in tables
    # What the numbers of a scale are, below a table; '' at paper scale.
    scale_notes: Callable[[], Mapping[Scale, str]] = _common_notes
    # Decisions that are common to many items, of those that an item has.
    decisions: Callable[[Experiment], Sequence[Decision]] = _no_decisions
    decisions_title: str = "Wherever it applies"
    # The tests of weights that others released, by the weights' tags.
    releases: Callable[[], Mapping[str, Classification]] = _no_releases

    def __post_init__(self) -> None:
        """PaperError if the experiments are not by name."""
        if not isinstance(self.experiments, Mapping):
            raise PaperError(f"{self.name}: `experiments` is a mapping; use `folder` or `items`")

    def names(self) -> list[str]:
        """The experiments there are, in the paper's order."""
        return list(self.experiments)

    def get(self, name: str) -> Experiment:
        """The experiment `name`; KeyError if there is none, PaperError if it is not valid.

        The experiments of the default paper are validated by the tests.
        """
        experiment = self.experiments[name]()
        if not isinstance(experiment, Experiment):
            raise PaperError(f"{self.name}, {name}: {experiment!r} is not an Experiment")
        if experiment.name != name:
            raise PaperError(
                f"the experiment {name!r} of {self.name} is named {experiment.name!r}; rename one"
            )
        if source() and id(experiment) not in _validated:
            if problem := validation.problem_of(experiment):
                raise PaperError(f"{self.name}, {name}: {problem}")
            _validated[id(experiment)] = experiment
        return experiment

    def matching(self, word: str) -> list[str]:
        """The experiments that a word names: itself, its panels, or 'all'.

        'figure1' names 'figure1_left' too, if there is no 'figure1'. A hyphen may stand for an
        underscore. KeyError if there is none.
        """
        word = word.replace("-", "_").lower()
        names = [n for n in self.names() if word in ("all", n) or n.startswith(f"{word}_")]
        if word in names:
            return [word]
        if not names:
            raise KeyError(word)
        return names


# --- experiments ---------------------------------------------------------------------------------


def items(*experiments: Experiment) -> dict[str, Callable[[], Experiment]]:
    """Experiments that are at hand, by name. PaperError if two have the same name."""
    names = [experiment.name for experiment in experiments]
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise PaperError(f"two experiments are named {twice[0]!r}; rename one")
    return {experiment.name: _loader(experiment) for experiment in experiments}


def _loader(experiment: Experiment) -> Callable[[], Experiment]:
    return lambda: experiment


def folder(package: str, file: str) -> dict[str, Callable[[], Experiment]]:
    """The modules of a package that define EXPERIMENT, each imported when it is needed.

    `package`, `file`: the package's `__name__` and `__file__`. Tables come before figures, the
    appendix after them, other names last; within each by number.
    """
    paths = [path for path in Path(file).parent.glob("*.py") if _defines_experiment(path)]
    names = sorted((path.stem for path in paths), key=_order)
    return {name: lambda name=name: _load(f"{package}.{name}") for name in names}  # type: ignore[misc]


def _defines_experiment(path: Path) -> bool:
    lines = path.read_text().splitlines()
    return any(line.startswith(("EXPERIMENT =", "EXPERIMENT:")) for line in lines)


def _load(module: str) -> Experiment:
    experiment = importlib.import_module(module).EXPERIMENT
    assert isinstance(experiment, Experiment), module
    return experiment


_SORTS = ("table", "figure")


def _order(name: str) -> tuple[int, bool, int, int, str]:
    """Tables, figures, others; the appendix after the rest; by number; left before right."""
    sort = next((i for i, sort in enumerate(_SORTS) if name.startswith(sort)), len(_SORTS))
    number = int("0" + "".join(c for c in name if c.isascii() and c.isdigit()))
    return sort, "_a" in name, number, len(name), name


# --- which paper ---------------------------------------------------------------------------------

_loaded: dict[str, Paper] = {}  # by what chose them
_validated: dict[int, Experiment] = {}  # by id()


def current() -> Paper:
    """The paper that REPRO_PAPER names, which `use` sets, or the default one."""
    chosen = os.environ.get(VARIABLE) or DEFAULT
    if chosen not in _loaded:
        _loaded[chosen] = _load_paper(chosen)
    return _loaded[chosen]


def use(chosen: str | Path) -> Paper:
    """Make a paper the current one, here and in the processes that are started from here.

    `chosen`: the path of a Python file or package, or a module's name. PaperError if it is none.
    """
    text = os.fspath(chosen)
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = str(_absolute(Path(text))) if _is_path(text) else text
    try:
        return current()
    except PaperError:
        os.environ.pop(VARIABLE)
        if before is not None:
            os.environ[VARIABLE] = before
        raise


def _absolute(path: Path) -> Path:
    """The absolute path of a file or package, also of a package named by its __init__.py."""
    return path.absolute().parent if path.name == "__init__.py" else path.absolute()


@contextmanager
def of_command(argv: Sequence[str]) -> Iterator[list[str]]:
    """The words of a command line without --paper, which chooses the paper while it lasts."""
    before = os.environ.get(VARIABLE)
    words, chosen = _without_option(argv)
    try:
        if chosen or before:
            use(chosen or before or "")
        yield words
    except SpecError:
        raise
    except Exception as error:
        if _raised_by_paper(error):
            raise PaperError(f"an error in the paper: {_place(error)}") from error
        raise
    finally:
        os.environ.pop(VARIABLE, None)
        if before is not None:
            os.environ[VARIABLE] = before


def _without_option(argv: Sequence[str]) -> tuple[list[str], str]:
    """The words without `--paper PATH`, and the path; '' if there is none. After '--' none is."""
    words, chosen, rest = list[str](), "", iter(argv)
    for word in rest:
        if word == "--":
            return [*words, word, *rest], chosen
        name, equals, value = word.partition("=")
        if name != "--paper":
            words.append(word)
        elif not (chosen := value if equals else next(rest, "")):
            raise PaperError("--paper needs the path of a Python file or package")
    return words, chosen


def source() -> Path | None:
    """The file or folder of the current paper; None of one that is imported by its name."""
    chosen = os.environ.get(VARIABLE) or DEFAULT
    return Path(chosen).absolute() if _is_path(chosen) else None


def files() -> Iterator[tuple[str, Path]]:
    """The Python files of the current paper, if it has a path, with their names relative to the
    folder that it is in: what a job needs of it."""
    if (at := source()) is None:
        return
    for path in [at] if at.is_file() else _python_files(at):
        yield path.relative_to(at.parent).as_posix(), path


def _python_files(package: Path) -> Iterator[Path]:
    """Those of a package and its subpackages: another folder in it may hold results."""
    for path in sorted(package.iterdir()):
        if path.suffix == ".py":
            yield path
        elif (path / "__init__.py").is_file():
            yield from _python_files(path)


def import_models() -> None:
    """Import the modules that register the current paper's architectures."""
    for module in current().models:
        importlib.import_module(module)


def _is_path(chosen: str) -> bool:
    return (
        os.sep in chosen
        or chosen.startswith(".")
        or chosen.endswith(".py")
        or Path(chosen).exists()
    )


def _load_paper(chosen: str) -> Paper:
    try:
        module = _module_at(Path(chosen)) if _is_path(chosen) else importlib.import_module(chosen)
    except PaperError:
        raise
    except ModuleNotFoundError as error:
        problem = f"{chosen} is not a paper" if error.name == chosen else f"{chosen}: {error}"
        raise PaperError(f"{problem}; name a Python file, a package or a module") from error
    except (Exception, SystemExit) as error:
        raise PaperError(f"the paper {chosen} cannot be loaded: {_place(error)}") from error
    paper = getattr(module, "PAPER", None)
    if not isinstance(paper, Paper):
        raise PaperError(f"{chosen} defines no PAPER of the type repro.paper.Paper; add it")
    if not paper.experiments:
        raise PaperError(f"the paper {chosen} has no experiments; add one")
    return paper


def _raised_by_paper(error: Exception) -> bool:
    """Whether the code of a paper that was chosen by its path raised it, and not the engine."""
    own = _file_names()
    frames = (frame.filename for frame in traceback.extract_tb(error.__traceback__))
    names = [name for name in frames if name in own or Path(name).is_relative_to(_ENGINE)]
    return bool(names) and names[-1] in own


def _place(error: BaseException) -> str:
    """'file.py, line 3: NameError: ...', of the innermost frame in the paper, or else of all."""
    what = f"{type(error).__name__}: {' '.join(str(error).split())}"
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}: SyntaxError: {error.msg}"
    frames, own = traceback.extract_tb(error.__traceback__), _file_names()
    in_paper = [frame for frame in frames if frame.filename in own]
    if not (candidates := in_paper or list(frames)):
        return what
    return f"{candidates[-1].filename}, line {candidates[-1].lineno}: {what}"


def _file_names() -> set[str]:
    return {str(path) for _, path in files()}


def _module_at(path: Path) -> ModuleType:
    """The module in a file, or the package in a folder, under its own name."""
    file = path / "__init__.py" if path.is_dir() else path
    if not file.is_file() or file.suffix != ".py":
        what = "a folder without __init__.py" if path.is_dir() else _why_no_module(file)
        raise PaperError(f"the paper {path}: {what}; name a Python file or package")
    name = path.stem
    if not name.isidentifier() or _is_taken(name, file):
        why = "the name of another module" if name.isidentifier() else "not a valid module name"
        raise PaperError(f"the paper {path}: {name!r} is {why}; rename it")
    module_spec = importlib.util.spec_from_file_location(name, file)
    assert module_spec, file
    assert module_spec.loader, file
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[name] = module
    try:
        module_spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _why_no_module(file: Path) -> str:
    return "not a .py file" if file.is_file() else "no such file"


def _is_taken(name: str, file: Path) -> bool:
    """Whether another module has the name."""
    if name in sys.modules:
        return getattr(sys.modules[name], "__file__", None) != str(file)
    module_spec = importlib.util.find_spec(name)
    origin = module_spec.origin if module_spec else None
    return bool(origin and Path(origin).resolve() != file.resolve())
