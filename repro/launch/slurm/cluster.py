"""One site's SLURM parameters, read strictly from its file in slurm/.

A site file changes how runs are carried out, never what they compute: nothing here is part of a
run's id. Each value is read as the text in the file, then converted to the type of its field, so
that `time: 12:00:00`, `account: 0123` and `kill-on-invalid-dep: yes` mean what they look like.
(YAML's rules would turn them into 43200, 83 and true.)
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, is_dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml

from repro.core import records
from repro.launch.lease import MAX_TIMEOUT_SECONDS

_MAX_BYTES = 2**20  # of a site file
_MAX_DEPTH = 8  # of mappings and lists in each other
SIGNAL_SECONDS_MAX = 65535  # what `sbatch --signal` can express


class ClusterError(Exception):
    """An unusable site file: one line with the file, the key and the next step."""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What a run requests if its id matches `runs`."""

    runs: str = "*"  # a pattern over run ids, with * ? and [abc]
    nodes: int = 1
    gpus: int = 1  # per node, one task (rank) each. 0: train on CPUs
    tasks: int | None = None  # per node, where gpus is 0; default: 1
    cpus: int = 4  # per task: the input pipeline's workers; too few starve the GPU
    memory_gb: float | None = None  # GiB per task; default: the site's own rule
    time: str = "1d"  # of one attempt: 90m, 12h, 3d, 1-12:00:00; a longer run is requeued
    micro_batch: int | None = None  # images on one device at once; default: what fits
    per_gpu: int = 1  # small runs that share a job and its GPU
    partition: str | None = None  # overrides the cluster's, e.g. a short queue

    def __post_init__(self) -> None:
        _check_values(self)
        _require(
            not self.gpus or self.tasks in (None, self.gpus),
            f"tasks: {self.tasks} tasks for {self.gpus} GPUs, but each task uses one GPU; "
            "remove tasks",
        )
        _require(
            self.per_gpu == 1 or (self.nodes, self.gpus) == (1, 1),
            f"per_gpu: {self.per_gpu} runs share one GPU, but each requests {self.nodes} × "
            f"{self.gpus}; set nodes and gpus to 1",
        )
        try:
            minutes(self.time)
        except ClusterError as error:
            raise ClusterError(f"time: {error}") from None

    @property
    def minutes(self) -> int:
        """The time limit of one attempt, in minutes."""
        return minutes(self.time)

    @property
    def tasks_per_node(self) -> int:
        """Processes on each node: the ranks of a run, or the runs that share a GPU."""
        return self.per_gpu * (self.tasks or self.gpus or 1)


@dataclass(frozen=True, kw_only=True)
class Gpus:
    """How this site expects GPUs to be requested."""

    request: Literal["gpus-per-node", "gres"] = (
        "gpus-per-node"  # gres: for sites without --gpus-per-node
    )
    type: str | None = None  # GPU type at this site, e.g. a100; default: any

    def __post_init__(self) -> None:
        _check_values(self)

    def option(self, count: int) -> dict[str, str]:
        """The sbatch option that requests `count` GPUs per node; none for 0."""
        text = f"{self.type}:{count}" if self.type else str(count)
        by_name = {"gpus-per-node": text, "gres": f"gpu:{text}"}
        return {self.request: by_name[self.request]} if count else {}


_ADDRESS = re.compile(
    r"[A-Za-z0-9_.+=/~%&'*!?#$^`{|}][A-Za-z0-9_.+=/~%&'*!?#$^`{|}-]*@[A-Za-z0-9][A-Za-z0-9.-]*"
)


@dataclass(frozen=True, kw_only=True)
class Notify:
    """Who gets a note at the end of a launch: an address, a command, or both."""

    mail: str | None = None
    command: tuple[str, ...] = ()  # with its arguments; it gets the note on its standard input
    partition: str | None = None  # of the job that sends it; default: that of the runs

    def __post_init__(self) -> None:
        _check_values(self)
        _require(
            self.mail or self.command, "mail: no address, and no command; set one of them, or both"
        )
        _require(
            self.mail is None or (len(self.mail) <= 254 and _ADDRESS.fullmatch(self.mail)),
            f"mail: {self.mail!r:.80} is not one address; write it like me@example.org",
        )
        program = self.command[0] if self.command else "/"
        _require(
            program.startswith("/") or not re.search("^-|/", program),
            f"command: {program!r:.80} is relative; begin it with /, or name a program on PATH",
        )

    @property
    def recipients(self) -> str:
        """The address and the program, in words."""
        return " and ".join(each for each in (self.mail, *self.command[:1]) if each)


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """One site. Fields without a value are not sent, so that the site's default applies."""

    partition: str | None = None  # one, or several separated by commas
    account: str | None = None  # the account to charge
    qos: str | None = None
    constraint: str | None = None  # features of nodes, e.g. a100|h100
    reservation: str | None = None
    exclude: str | None = None  # nodes to avoid, e.g. gpu[07,12]
    nodelist: str | None = None
    gpus: Gpus = field(default_factory=Gpus)
    resources: tuple[Resources, ...] = field(default_factory=lambda: (Resources(),))  # the first
    # that matches a run's id
    warning_seconds: int = 120  # from the warning to the limit: time for a checkpoint
    parallel: int = 256  # elements of one array that run at a time
    budget_hours: float | None = None  # wall clock of one run over all attempts; default: no limit
    limit_gpu_hours: float = 250  # per launch at paper scale, at the upper price
    # estimate; more needs --yes or --budget
    silence_seconds: float = 120  # without a heartbeat (sent every 5 s; NFS may delay
    # it by 60 s), after which a run counts as dead and is taken over
    shared: tuple[str, ...] = ()  # absolute folders shared with the nodes; default: unknown
    setup: tuple[str, ...] = ()  # shell lines on the first node, before srun: modules, staging
    environment: dict[str, str] = field(default_factory=dict)  # of the run
    python: str | None = None  # on the nodes; default: the one that launches
    notify: Notify | None = None  # who gets a note at the end of a launch
    srun: tuple[str, ...] = ()  # further arguments, e.g. --container-image=...
    sbatch: dict[str, str] = field(default_factory=dict)  # other options by long name, without
    # dashes; `true` for one that takes no value

    def __post_init__(self) -> None:
        _check_values(self)
        for name, value in self.sbatch.items():
            _check_option(name, value)
        for name in self.environment:
            is_valid = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name)
            _require(is_valid, f"environment: {name!r} is not a variable name; use A-Z, 0-9 and _")
        for path in self.shared:
            _require(path.startswith("/"), f"shared: {path!r} is relative; begin it with /")
        for resources in self.resources[:-1]:
            all_runs = "matches all runs and hides the later ones; move it to the end"
            _require(resources.runs != "*", f"resources: an entry before the last {all_runs}")
        _require(self.resources, "resources: an empty list; add an entry, or remove the key")
        shortest = min(60 * resources.minutes for resources in self.resources)
        longest_warning = min(shortest - 1, SIGNAL_SECONDS_MAX)
        _require(
            self.warning_seconds <= longest_warning,
            f"warning_seconds: {self.warning_seconds} s exceeds the shortest `time` of "
            f"resources, {shortest} s; write {longest_warning} or less",
        )
        longest = f"longer than {MAX_TIMEOUT_SECONDS:g} s; write that or less"
        _require(self.silence_seconds <= MAX_TIMEOUT_SECONDS, f"silence_seconds: {longest}")

    def resources_for(self, run_id: str) -> Resources:
        """The resources of a run; ClusterError if no entry matches."""
        for resources in self.resources:
            if fnmatchcase(run_id, resources.runs):
                return resources
        raise ClusterError(f"resources: none for the run {run_id}; add an entry with runs: '*'")

    @property
    def sbatch_options(self) -> dict[str, str | Literal[True]]:
        """The further sbatch options; True for one that takes no value."""
        return {name: True if v == "true" else v for name, v in self.sbatch.items()}


def shared(cluster: Cluster, per_gpu: int) -> Cluster:
    """The site with `per_gpu` runs per job wherever a job has one GPU; ClusterError if none has."""
    shapes = tuple(
        replace(r, per_gpu=per_gpu) if (r.nodes, r.gpus) == (1, 1) else r for r in cluster.resources
    )
    one_gpu = any((shape.nodes, shape.gpus) == (1, 1) for shape in shapes)
    _require(one_gpu, "resources: --per-gpu needs an entry with nodes: 1 and gpus: 1")
    return replace(cluster, resources=shapes)


def minutes(text: str) -> int:
    """A time limit in minutes, rounded up as SLURM does: 90m, 12h, 3d, 12:00:00, 1-12:00:00."""
    if match := re.fullmatch(r"([0-9]{1,9})([mhd])", text):
        total = int(match[1]) * {"m": 1, "h": 60, "d": 24 * 60}[match[2]]
    elif match := re.fullmatch(r"(?:([0-9]{1,9})-)?([0-9]{1,9}):([0-5][0-9]):([0-5][0-9])", text):
        days, hours, mins, seconds = (int(part or 0) for part in match.groups())
        total = (days * 24 + hours) * 60 + mins + (seconds > 0)
    else:
        problem = "has no unit" if text.isdecimal() else "is not a time"
        raise ClusterError(f"{text!r:.80} {problem}; write it like 90m, 12h, 3d or 1-12:00:00")
    _require(total, f"{text!r} means no limit to SLURM; write one, like 12h")
    return total


# --- the file ------------------------------------------------------------------------------------


def load(path: Path) -> Cluster:
    """Read a site file; ClusterError for anything it cannot interpret."""
    try:
        text = records.read_bytes(path, _MAX_BYTES).decode("utf-8")
        content = yaml.load(text, _Loader)
        cluster: Cluster = _build(Cluster, content, "")
        return cluster
    except FileNotFoundError:
        problem = f"no such file; `repro doctor --cluster {path}` writes one"
    except OSError as error:
        problem = f"cannot be read: {error.strerror}; name the YAML file of a site"
    except UnicodeDecodeError:
        problem = "not UTF-8; name the YAML file of a site"
    except yaml.YAMLError as error:
        problem = f"{_place(error)}; fix it, or start from a copy of slurm/default.yaml"
    except records.Damaged as error:
        problem = f"{error}; name the YAML file of a site"
    except ClusterError as error:
        problem = str(error)
    raise ClusterError(f"{path}: {' '.join(problem.split())}")  # one line, whatever a key has in it


def dump(cluster: Cluster) -> str:
    """YAML that `load` reads as this cluster: the values that differ from the defaults."""
    content = yaml.safe_dump(_content(cluster), sort_keys=False, width=1000)
    return f"# One site's SLURM parameters; slurm/default.yaml explains every key.\n{content}"


class _Loader(yaml.BaseLoader):
    """YAML with every value as text, or None if empty, and without repeated keys.

    Nesting is limited and aliases are refused: expanding aliases of aliases can exhaust any memory.
    """

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        where = f"line {mark.line + 1}"
        _require(
            not self.check_event(yaml.AliasEvent),
            f"{where}: aliases are not allowed; repeat the value",
        )
        _require(self.depth < _MAX_DEPTH, f"{where}: nested too deeply; see slurm/default.yaml")
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        for i, key in enumerate(keys):
            line = node.value[i][0].start_mark.line + 1
            _require(key not in keys[:i], f"{key}: repeated in line {line}; keep one of them")
        return super().construct_mapping(node, deep)


_NULL = "tag:yaml.org,2002:null"
_Loader.add_implicit_resolver(_NULL, re.compile(r"(~|null|)$"), ["~", "n", ""])
_Loader.add_constructor(_NULL, lambda loader, node: None)


def _place(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or "an invalid character"
    return f"line {mark.line + 1}: not YAML: {problem}" if mark else f"not YAML: {problem}"


def _build(kind: Any, content: Any, key: str) -> Any:
    """The dataclass described under `key`."""
    hints, prefix = get_type_hints(kind), f"{key}." if key else ""
    content = {} if content is None else content
    mapping = isinstance(content, dict)
    _require(mapping, f"{key or 'all'}: must be a mapping; its keys are {', '.join(hints)}")
    for name in content:
        _require(name in hints, f"{prefix}{name}: unknown key; {_hint(str(name), hints)}")
    present = {
        name: value for name, value in content.items() if value is not None
    }  # `key:` means None
    values = {name: _value(hints[name], value, prefix + name) for name, value in present.items()}
    try:
        return kind(**values)
    except ClusterError as error:
        raise ClusterError(f"{prefix}{error}") from None


def _value(hint: Any, content: Any, key: str) -> Any:
    """The value under `key`, converted to the type of its field."""
    if NoneType in get_args(hint):
        hint = get_args(hint)[0]
    if is_dataclass(hint):
        return _build(hint, content, key)
    if get_origin(hint) is tuple:
        _require(isinstance(content, list), f"{key}: must be a list; start its lines with a dash")
        inner = get_args(hint)[0]
        return tuple(_value(inner, item, f"{key}[{i}]") for i, item in enumerate(content))
    if get_origin(hint) is dict:
        _require(isinstance(content, dict), f"{key}: must be a mapping; write lines `name: value`")
        return {str(name): _value(str, v, f"{key}.{name}") for name, v in content.items()}
    return _leaf(hint, content, key)


def _leaf(hint: Any, content: Any, key: str) -> Any:
    """A text as str, int, float or Literal, by the rules of the command line."""
    from jsonargparse import ArgumentError, ArgumentParser

    names = {str: "text", int: "a whole number", float: "a number"}
    what = names.get(hint) or " or ".join(get_args(hint))
    _require(content is not None, f"{key}: must be {what}, not empty; write a value")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=hint)
    try:
        return parser.parse_object({"value": content}).value
    except ArgumentError:
        raise ClusterError(f"{key}: must be {what}, not {content!r:.80}; correct it") from None


def _content(value: Any) -> Any:
    """A dataclass as plain lists and mappings, without defaults."""
    if isinstance(value, Notify):
        return {k: _content(v) for k, v in vars(value).items() if v}
    if isinstance(value, Cluster | Gpus | Resources):
        defaults = vars(type(value)())
        return {k: _content(v) for k, v in vars(value).items() if v != defaults[k]}
    return [_content(item) for item in value] if isinstance(value, tuple) else value


# --- what values may be --------------------------------------------------------------------------

REPLACEMENTS = {  # sbatch options that have a key, or must not be set
    "partition account qos constraint reservation exclude nodelist": "use that key of the site",
    "time": "use `time` of resources",
    "nodes": "use `nodes` of resources",
    "gpus gpus-per-node gpus-per-task gpus-per-socket gres": "use `gpus` of resources",
    "ntasks ntasks-per-node ntasks-per-gpu": "use `tasks` of resources",
    "cpus-per-task cpus-per-gpu": "use `cpus` of resources",
    "mem mem-per-cpu mem-per-gpu": "use `memory_gb` of resources",
    "array dependency signal job-name comment output error open-mode requeue no-requeue export": (
        "the launch sets it; remove it"
    ),
    "wrap parsable wait test-only": "it would break the launch; remove it",
    "cluster clusters cluster-constraint": (
        "later calls of SLURM's clients would use another cluster; submit there, or set SLURM_CONF"
    ),
}


def _require(condition: object, message: str) -> None:
    if not condition:
        raise ClusterError(message)


def _check_values(settings: Any) -> None:
    """Numbers must be positive, texts one non-empty line."""
    for name, value in vars(settings).items():
        if isinstance(value, int | float):
            condition = 0 < value < math.inf or (name, value) == ("gpus", 0)
            _require(condition, f"{name}: must be above 0, not {value}; raise it, or remove it")
        for text in _texts(value):
            _require(text or name == "environment", f"{name}: an empty text; remove it")
            printable = text.isprintable() or name == "setup"  # may have several lines
            _require(
                printable, f"{name}: {text!r} has a line break or control character; write one line"
            )


def _texts(value: Any) -> list[str]:
    """The texts in a field's value."""
    items = value.values() if isinstance(value, dict) else value
    items = items if isinstance(value, dict | tuple) else [value]
    return [item for item in items if isinstance(item, str)]


def _check_option(name: str, value: str) -> None:
    """Refuse options that we send ourselves: one of the two would silently win."""
    spelled = name.lstrip("-").replace("_", "-").lower()
    for options, replacement in REPLACEMENTS.items():
        _require(
            spelled not in options.split(), f"sbatch: {name} does not belong here; {replacement}"
        )
    is_valid = re.fullmatch(r"[a-z][a-z0-9-]+", name)
    _require(is_valid, f"sbatch: {name!r} is not a long option name; write it without dashes")
    _require(value != "false", f"sbatch: {name}: false would be passed as its value; remove it")


def _hint(word: str, names: Iterable[str]) -> str:
    matches = difflib.get_close_matches(word.lower(), names, 1, cutoff=0.5)
    return f"did you mean {matches[0]}?" if matches else f"there are {', '.join(names)}"
