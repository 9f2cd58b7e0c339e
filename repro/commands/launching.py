"""The options of a launch, and launching for commands."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from repro.commands.parsing import option, repeated, switch
from repro.commands.usage import UsageError
from repro.commands.values import (
    cluster_file,
    data_folder,
    folder_of,
    gpu_hours,
    number,
    path_of,
    real,
    recipient,
    weights_folder,
)
from repro.core import terminal
from repro.execution import Decode, ExecutionOptions, Speed
from repro.spec import Run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from repro.core.plan import Request
    from repro.launch.slurm.cluster import Notify
    from repro.launch.start import Site
    from repro.launch.state import RunState

Where = Literal["none", "local", "slurm"]

MAX_CHECKPOINT_SECONDS = 604_800  # a week
MAX_RANKS = 1024  # far above what is sensible; a number without an end fills the memory
_SITE = "slurm/default.yaml"


class Outcome(NamedTuple):
    """An exit status, and whether no run is under way, so that tables can be rendered."""

    status: int
    is_over: bool


ONLY = ("a method, the name of a family, METHOD/COLUMN, or a pattern with * and ?; may be "
        "repeated; 'showcase' is one method of every family")  # fmt: skip
BUDGET = ("only the runs that decide the most claims within this budget; a run without a known "
          "price is left out, and so are all runs of its claims")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class LaunchOptions:
    """The options of a launch; None where an option is not given."""

    only: tuple[str, ...] = repeated(ONLY, metavar="METHOD")
    budget: float | None = option(BUDGET, read=gpu_hours, metavar="500gpuh", exclusive="spending")
    yes: bool = switch(
        "submit more GPU-hours than the site's limit_gpu_hours", exclusive="spending"
    )
    data: Path | None = option("datasets (REPRO_DATA; default: data)", read=folder_of,
                               metavar="DIR")  # fmt: skip
    checkpoint_seconds: float | None = option(
        "lose at most this much work to a kill (default: 60)",
        read=real("--checkpoint-seconds", MAX_CHECKPOINT_SECONDS), metavar="S",
    )  # fmt: skip
    weights: Path | None = option(
        "released weights, <tag>.safetensors (REPRO_WEIGHTS; default: the hub's cache, or the hub)",
        read=folder_of, metavar="DIR",
    )  # fmt: skip
    decode: Decode | None = option(
        "the JPEG decoder; nvJPEG's pixels differ by some grey levels (default: cpu)",
        choices=("cpu", "nvjpeg"),
    )
    speed: Speed | None = option(
        "how to train. plain: eager PyTorch; fast: faster memory layouts, and a fused optimizer "
        "on a GPU; compiled: also torch.compile for classifiers, which takes minutes at the "
        "start, for long runs on a GPU (default: fast)",
        choices=("plain", "fast", "compiled"),
    )
    micro_batch: int | None = option(
        "images per device and pass; gradients are accumulated over the whole batch (default: as "
        "many as fit)",
        read=number("--micro-batch", 2**20), metavar="N",
    )  # fmt: skip
    notify: Notify | None = option(
        "a mail address, or a command, that gets a note at the end",
        read=recipient, metavar="WHO",
    )  # fmt: skip
    dry_run: bool = switch("print what would be trained, submitted and rendered")
    per_gpu: int | None = option(
        "runs that share a GPU, for models that do not fill one (default: 1)",
        read=number("--per-gpu", MAX_RANKS), metavar="N",
    )  # fmt: skip
    jobs: int | None = option(
        "concurrent runs (default: one per GPU or core)",
        read=number("--jobs", MAX_RANKS), metavar="N", group="--launch local",
    )  # fmt: skip
    ranks: int | None = option(
        "processes per run, one GPU each (default: 1)",
        read=number("--ranks", MAX_RANKS), metavar="N", group="--launch local",
    )  # fmt: skip
    cluster: Path | None = option(
        f"the site file (REPRO_CLUSTER; default: {_SITE})",
        read=path_of, metavar="FILE", group="--launch slurm",
    )  # fmt: skip
    wait: bool = switch("wait until all runs have ended, then render", group="--launch slurm")

    def check(self, where: Where) -> None:
        """UsageError for an option that a launch there would ignore."""
        for name, launches in _OF_LAUNCH.items():
            if self.has(name) and where not in launches:
                raise UsageError(
                    f"{_flag(name)} is for --launch {' or '.join(launches)}; take it out or add "
                    "that"
                )

    def has(self, name: str) -> bool:
        """Whether an option was given; 0.0 is a value."""
        value = getattr(self, name)
        return not (value is None or value is False or value == ())

    def resolve(self, where: Where) -> Launch:
        """The launch with its defaults.

        Raises UsageError for an option that it would ignore, or an environment variable with an
        unusable path; variables of other launches are not read.
        """
        self.check(where)
        if where == "none":
            return Launch(where, self)
        own = {name: getattr(self, name) for name in _APPLIES_TO if self.has(name)}
        folders = {"data": self.data or data_folder(), "weights": self.weights or weights_folder()}
        options = ExecutionOptions(**own | folders)
        site = self.cluster or cluster_file() or Path(_SITE) if where == "slurm" else None
        return Launch(where, self, options, site)


@dataclass(frozen=True)
class Launch:
    """The options of a launch with their defaults."""

    where: Where
    args: LaunchOptions
    options: ExecutionOptions = field(default_factory=ExecutionOptions)
    site_file: Path | None = None


# The launches to which an option applies.
_OF_LAUNCH: Mapping[str, tuple[str, ...]] = {
    "jobs": ("local",),
    "ranks": ("local",),
    "cluster": ("slurm",),
    "wait": ("slurm",),
    "yes": ("slurm",),
    **dict.fromkeys(
        ("only", "budget", "data", "checkpoint_seconds", "micro_batch", "weights", "decode",
         "notify", "per_gpu", "speed"),
        ("local", "slurm"),
    ),
}  # fmt: skip


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def purpose_of(flag: str) -> str:
    """Which launches an option is for, for commands without it; '' if it is not a launch option."""
    if flag == "--launch":
        return "--launch is for `repro ITEM` and `repro retry`"
    launches = _OF_LAUNCH.get(flag.lstrip("-").replace("-", "_"), ())
    return f"{flag} is for --launch {' or '.join(launches)}" if launches else ""


# --- options that apply to some runs -------------------------------------------------------------


def _is_compiled(run: Run) -> bool:
    return "compiled" in run.launch_options


def _is_training(run: Run) -> bool:
    return run.is_training


def _is_decoded(run: Run) -> bool:
    return "decode" in run.launch_options


def _has_release(run: Run) -> bool:
    """Whether the run needs published weights: a classifier's, or Inception's."""
    return "weights" in run.launch_options


# Options that apply to some runs only: a predicate, and a description of these runs.
_APPLIES_TO: Mapping[str, tuple[Callable[[Run], bool], str]] = {
    "speed": (_is_training, "a training"),
    "micro_batch": (_is_training, "a training"),
    "checkpoint_seconds": (_is_training, "a training"),
    "decode": (_is_decoded, "a training on photographs"),
    "weights": (_has_release, "of released weights"),
}


def _check_options(runs: Iterable[Run], args: LaunchOptions) -> None:
    """Raise UsageError for an option that applies to none of the runs, finished or not."""
    runs = list(runs)
    for name, (applies, kind) in _APPLIES_TO.items():
        if name == "speed" and args.speed == "compiled":
            applies, kind = _is_compiled, "the training of a classifier"
        if runs and args.has(name) and not any(map(applies, runs)):
            raise UsageError(f"{_flag(name)} would do nothing: no run here is {kind}; remove it")


# --- launching -----------------------------------------------------------------------------------


def launch(request: Request, root: Path, settings: Launch) -> Outcome:
    """Train or submit the runs without a result, and print the progress.

    KeyboardInterrupt carries the advice that the same command resumes.
    """
    try:
        return _launch(request, root, settings)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command resumes") from None


def _launch(request: Request, root: Path, settings: Launch) -> Outcome:
    from repro.launch import start, state

    _check_options(request.runs, settings.args)
    site = (
        start.load_site(settings.site_file, settings.args.per_gpu) if settings.site_file else None
    )
    if site and settings.args.notify:
        site = start.with_notify(site, settings.args.notify)
    states = state.query(root, request.runs)
    start.check_repaired(states)
    if settings.args.budget is not None:
        request = _within_budget(request, states, settings.args.budget, root, site)
    if not site:
        return _train(request, states, root, settings)
    if not (settings.args.yes or settings.args.budget is not None):
        _check_limit(request, states, root, settings.args.dry_run, site)
    return _submit(request, root, settings, site)


def _train(request: Request, states: Sequence[RunState], root: Path, settings: Launch) -> Outcome:
    from repro.commands import overview
    from repro.launch import data, start

    args, ranks = settings.args, settings.args.ranks or 1
    start.check_per_gpu(args.jobs, ranks, args.per_gpu)
    if not args.dry_run:
        succeeded = start.local(
            request,
            root,
            settings.options,
            jobs=args.jobs,
            ranks=ranks,
            per_gpu=args.per_gpu,
            notify=args.notify,
        )
        return Outcome(0 if succeeded else 1, True)
    to_do = request.only(s.run for s in states if not s.is_settled)
    terminal.show(*overview.plan_parts(to_do, states))
    for line in data.missing(to_do.runs, settings.options.data):
        print(line)
    return Outcome(0, True)


def _submit(request: Request, root: Path, settings: Launch, site: Site) -> Outcome:
    """Submit the runs that are neither finished nor under way; with --wait, wait for all."""
    from repro.launch import start

    if settings.args.dry_run:
        for line in start.preview(request, root, settings.options, site):
            print(line)
        return Outcome(0, False)
    if start.submit(request, root, settings.options, site, _report):
        if not settings.args.wait:
            print("`repro status` shows them; the same command renders them when they are done")
            return Outcome(0, False)
        try:
            start.wait(request, root, settings.options, site, _report)
        except KeyboardInterrupt:
            print("\nrepro: the jobs continue; `repro status` shows them", file=sys.stderr)
            return Outcome(130, False)
    return Outcome(0 if start.are_settled(request, root) else 1, True)


def _report(line: str) -> None:
    print(line, flush=True)


def _within_budget(
    request: Request, states: Sequence[RunState], gpu_hours: float, root: Path, site: Site | None
) -> Request:
    from repro.launch import budget

    to_do = request.only(s.run for s in states if not s.is_settled)
    prices = budget.prices(root, to_do, site.cluster if site else None)
    included, about = budget.within_budget(request, states, root, gpu_hours, prices)
    print(about, flush=True)
    return included


def _check_limit(
    request: Request, states: Sequence[RunState], root: Path, dry_run: bool, site: Site
) -> None:
    """Raise UsageError for more GPU-hours than the site's limit; with --dry-run, print it."""
    from repro.launch import budget

    pending = request.only(s.run for s in states if not (s.is_settled or s.is_under_way))
    if line := budget.above_limit(pending, root, site.cluster):
        if not dry_run:
            raise UsageError(line)
        print(line)
