"""Site files: those in slurm/ load; a mistake is one line with the file, the key, the next step."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro.launch.slurm import cluster
from repro.launch.slurm.cluster import (
    Cluster,
    ClusterError,
    Gpus,
    Notify,
    Resources,
    dump,
    load,
    minutes,
)

SITES = Path(__file__).parents[2] / "slurm"
EXAMPLES = sorted((SITES / "examples").glob("*.yaml"))


def site(tmp_path: Path, text: str) -> Path:
    """A site file with this content."""
    path = tmp_path / "site.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(path: Path) -> str:
    """What a site file is refused with, after its name."""
    with pytest.raises(ClusterError) as caught:
        load(path)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


# --- the files in slurm/ -------------------------------------------------------------------------


def test_every_site_file_loads() -> None:
    paths = sorted(SITES.rglob("*.yaml"))
    assert {SITES / "default.yaml", *EXAMPLES} <= set(paths)
    for path in paths:
        load(path)


def test_the_default_file_is_the_defaults() -> None:
    assert load(SITES / "default.yaml") == Cluster()


def test_the_default_file_shows_every_key_with_its_default(tmp_path: Path) -> None:
    text = (SITES / "default.yaml").read_text()
    shown = re.sub(r"^#(?=( *|- )[a-z_]+:)", "", text, flags=re.MULTILINE)
    assert load(site(tmp_path, shown)) == Cluster()
    for kind in (Cluster, Gpus, Resources):
        for field in fields(kind):
            assert re.search(rf"^(  |- )?{field.name}:", shown, re.MULTILINE), field.name


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_shows_a_field_of_its_own(path: Path) -> None:
    def used(where: Path) -> set[str]:
        return set(re.findall(r"^[- ]*([a-z_]+):", dump(load(where)), re.MULTILINE))

    assert used(path) - set[str]().union(*(used(other) for other in EXAMPLES if other != path))


def test_examples_say_what_they_mean() -> None:
    sites = {path.stem: load(path) for path in EXAMPLES}
    typed = sites["typed-gpus"]
    assert typed.gpus.option(typed.resources[1].gpus) == {"gres": "gpu:a100:4"}
    assert typed.resources_for("nest-tiny-cifar-cifar10-smoke-1ep-s0-92b64147").minutes == 30
    assert sites["container"].sbatch_options == {"exclusive": True}
    (cpu,) = sites["cpu"].resources
    assert (cpu.tasks_per_node, sites["cpu"].gpus.option(cpu.gpus)) == (4, {})


# --- reading -------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "# nothing\n", "{}", "gpus:\nresources:\npartition: ~\n"])
def test_a_key_without_a_value_has_its_default(tmp_path: Path, text: str) -> None:
    assert load(site(tmp_path, text)) == Cluster()


def test_values_are_read_as_written(tmp_path: Path) -> None:
    text = """
account: 0123
qos: no
resources: [{time: 12:00:00, memory_gb: 40}, {nodes: 2}]
environment: {A: 1.10, B: yes, C: 0x10, D: "", E: null-ish}
sbatch: {kill-on-invalid-dep: yes, begin: 16:00, exclusive: true}
"""
    found = load(site(tmp_path, text.replace("[{", '[{runs: "a*", ')))
    assert (found.account, found.qos) == ("0123", "no")
    assert [(r.minutes, r.memory_gb, r.nodes) for r in found.resources] == [
        (720, 40.0, 1),
        (1440, None, 2),
    ]
    assert found.environment == {"A": "1.10", "B": "yes", "C": "0x10", "D": "", "E": "null-ish"}
    assert found.sbatch_options == {
        "kill-on-invalid-dep": "yes",
        "begin": "16:00",
        "exclusive": True,
    }


def test_reading_runs_no_code(tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    tag = f"!!python/object/apply:os.system ['touch {witness}']"
    assert "partition" in refusal(site(tmp_path, f"partition: {tag}\n"))
    assert not witness.exists()


def test_importing_is_cheap() -> None:
    heavy = "{'torch', 'pandas', 'numpy', 'jsonargparse'}"
    code = f"import sys, repro.launch.slurm.cluster; assert not {heavy} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


LINES = st.text("aZ09 ~:#-'\"{}[]&*!|>%@,.=é\\", min_size=1).filter(lambda t: t != "null")
TIMES = st.sampled_from(["3m", "90m", "12h", "3d", "1-12:00:00", "00:30:01"])
COUNTS = st.integers(1, 2**31)
AMOUNTS = st.floats(min_value=0, exclude_min=True, allow_infinity=False)
OPTIONS = st.dictionaries(st.sampled_from(["hint", "licenses", "begin", "switches"]), LINES)
NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]*", fullmatch=True)


def settings_of(kind: type[Any], **special: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Any settings of a dataclass: a strategy a field, by its type or by its name."""
    by_type: dict[Any, st.SearchStrategy[Any]] = {
        int: COUNTS, float: AMOUNTS, str: LINES,
        int | None: st.none() | COUNTS, float | None: st.none() | AMOUNTS,
        str | None: st.none() | LINES,
        tuple[str, ...]: st.lists(LINES, max_size=3).map(tuple),
    }  # fmt: skip
    hints = {name: hint for name, hint in get_type_hints(kind).items() if name not in special}
    return st.builds(kind, **{name: by_type[hint] for name, hint in hints.items()}, **special)


GPUS = settings_of(Gpus, request=st.sampled_from(["gpus-per-node", "gres"]))
RESOURCES = settings_of(
    Resources,
    runs=LINES.filter(lambda pattern: pattern != "*"),
    time=TIMES,
    gpus=st.integers(0, 16),
    tasks=st.none(),
    per_gpu=st.just(1),
)
RESOURCES |= settings_of(Resources, time=TIMES, gpus=st.just(0), per_gpu=st.just(1))
RESOURCES |= settings_of(Resources, time=TIMES, nodes=st.just(1), gpus=st.just(1), tasks=st.none())
NOTIFY = settings_of(
    Notify,
    mail=st.sampled_from(["me@example.org", "a.b+c_d@localhost", "'x'@a-b.c"]),
    command=st.lists(LINES.map("/".__add__), max_size=2).map(tuple),
)
CLUSTERS = settings_of(
    Cluster,
    gpus=GPUS,
    notify=st.none() | NOTIFY,
    resources=st.lists(RESOURCES, min_size=1, max_size=3)
    .filter(lambda entries: all(entry.runs != "*" for entry in entries[:-1]))
    .map(tuple),
    warning_seconds=st.integers(1, 179),
    silence_seconds=st.floats(0, 3600, exclude_min=True),
    shared=st.lists(LINES.map("/".__add__), max_size=2).map(tuple),
    setup=st.lists(LINES | st.just("two\nlines\n"), max_size=3).map(tuple),
    environment=st.dictionaries(NAMES, LINES | st.just(""), max_size=3),
    sbatch=OPTIONS,
)


@given(found=CLUSTERS)
def test_what_is_dumped_is_loaded(tmp_path_factory: pytest.TempPathFactory, found: Cluster) -> None:
    path = tmp_path_factory.getbasetemp() / "dumped.yaml"
    path.write_text(dump(found), encoding="utf-8")
    assert load(path) == found


def test_a_dump_says_what_differs_and_no_more() -> None:
    lines = dump(Cluster(partition="gpu", resources=(Resources(gpus=2),))).splitlines()
    assert lines[0].startswith("# ")
    assert lines[1:] == ["partition: gpu", "resources:", "- gpus: 2"]


def test_a_site_whose_jobs_of_one_gpu_are_shared() -> None:
    large = Resources(runs="nest-base-*", gpus=8)
    found = cluster.shared(Cluster(resources=(large, Resources())), 4)
    assert found.resources == (large, Resources(per_gpu=4))
    with pytest.raises(ClusterError, match="--per-gpu needs an entry with nodes: 1 and gpus: 1"):
        cluster.shared(Cluster(resources=(Resources(gpus=0),)), 2)


# --- refusals ------------------------------------------------------------------------------------

REFUSED = {  # what the file says: how the refusal goes, after the file's name
    "notify: me@example.org": "notify: must be a mapping; its keys are mail, command, partition",
    "notify: {}": "notify.mail: no address, and no command; set one of them, or both",
    "notify: {partition: cpu}": "notify.mail: no address, and no command;",
    "notify: {mail: me}": "notify.mail: 'me' is not one address; write it like me@example.org",
    "notify: {mail: -oQ/tmp@example.org}": "notify.mail: '-oQ/tmp@example.org' is not one address",
    "notify: {mail: 'a@b.org, c@d.org'}": "notify.mail: 'a@b.org, c@d.org' is not one address",
    'notify: {mail: "a@b.org\\nBcc: c@d.org"}': "notify.mail: 'a@b.org\\nBcc: c@d.org' has a line",
    "notify: {command: note.sh me}": "notify.command: must be a list",
    "notify: {command: [./note.sh]}": "notify.command: './note.sh' is relative; begin it with /",
    "notify: {command: [-x]}": "notify.command: '-x' is relative",
    "notify: {command: ['']}": "notify.command: an empty text",
    "notify: {command: [a], to: b}": "notify.to: unknown key; ",
    # keys
    "partion: gpu": "partion: unknown key; did you mean partition?",
    "PARTITION: gpu": "PARTITION: unknown key; did you mean partition?",
    "gpus: {kind: a100}": "gpus.kind: unknown key; there are request, type",
    "gpus: {Tpye: a100}": "gpus.Tpye: unknown key; did you mean type?",
    "resources: [{}, {node: 2}]": "resources[1].node: unknown key; did you mean nodes?",
    '"a\\nb": 1': "a b: unknown key; there are partition, account",
    "qos: a\ngpus: {}\nqos: b": "qos: repeated in line 3; keep one of them",
    "gpus: {type: a, type: b}": "type: repeated in line 1; keep",
    "sbatch:\n  x-y: 1\n  x-y: 2": "x-y: repeated in line 3; keep",
    # shapes
    "- partition": "all: must be a mapping; its keys are partition,",
    "gpu": "all: must be a mapping; its keys are partition,",
    "gpus: 4": "gpus: must be a mapping; its keys are request, type",
    "resources: {gpus: 4}": "resources: must be a list; start its lines with a dash",
    "resources: [4]": "resources[0]: must be a mapping; its keys are runs,",
    "resources: []": "resources: an empty list; add an entry",
    "setup: module load cuda": "setup: must be a list; start its lines with a dash",
    "setup: [[a]]": "setup[0]: must be text, not ['a']",
    "srun: [a, ~]": "srun[1]: must be text, not empty; write",
    "environment: [A=1]": "environment: must be a mapping; write lines `name: value`",
    "environment: {A: }": "environment.A: must be text, not empty; write",
    "environment: {A: [1]}": "environment.A: must be text, not ['1']; correct",
    "partition: [a, b]": "partition: must be text, not ['a', 'b']",
    # types and numbers
    "parallel: many": "parallel: must be a whole number, not 'many'",
    "parallel: 2.5": "parallel: must be a whole number, not '2.5'",
    "parallel: true": "parallel: must be a whole number, not 'true'",
    "budget_hours: 3d": "budget_hours: must be a number, not '3d'",
    "gpus: {request: gpu}": "gpus.request: must be gpus-per-node or gres, not 'gpu'",
    "budget_hours: 0": "budget_hours: must be above 0, not 0.0; raise it",
    "silence_seconds: -1": "silence_seconds: must be above 0, not -1.0; raise it",
    "silence_seconds: 3601": "silence_seconds: longer than 3600 s; write that or less",
    "silence_seconds: .nan": "silence_seconds: must be above 0, not nan; raise it",
    "budget_hours: .inf": "budget_hours: must be above 0, not inf; raise it",
    "parallel: 0": "parallel: must be above 0, not 0; raise it",
    "warning_seconds: 0": "warning_seconds: must be above 0, not 0; raise it",
    "resources: [{nodes: 0}]": "resources[0].nodes: must be above 0, not 0; raise it",
    "resources: [{gpus: -1}]": "resources[0].gpus: must be above 0, not -1; raise it",
    "resources: [{cpus: 0}]": "resources[0].cpus: must be above 0, not 0; raise it",
    "resources: [{memory_gb: 0}]": "resources[0].memory_gb: must be above 0, not 0.0; raise it",
    "resources: [{gpus: 4, tasks: 8}]": "resources[0].tasks: 8 tasks for 4 GPUs, but each task",
    # texts
    'qos: ""': "qos: an empty text; remove it",
    'srun: [""]': "srun: an empty text; remove it",
    'gpus: {type: "a\\n100"}': "gpus.type: 'a\\n100' has a line break",
    'account: "a\\nb"': "account: 'a\\nb' has a line break",
    'sbatch: {x-y: "a\\nb"}': "sbatch: 'a\\nb' has a line break",
    "environment: {1A: 1}": "environment: '1A' is not a variable name; use",
    "environment: {A-B: 1}": "environment: 'A-B' is not a variable name; use",
    "environment: {É: 1}": "environment: 'É' is not a variable name; use",
    "shared: [scratch]": "shared: 'scratch' is relative; begin it with /",
    "resources: [{gpus: 2, per_gpu: 3}]": "resources[0].per_gpu: 3 runs share one GPU, but each",
    # times
    "resources: [{time: 90}]": "resources[0].time: '90' has no unit; write it like 90m,",
    "resources: [{time: soon}]": "resources[0].time: 'soon' is not a time; write it like 90m,",
    "resources: [{time: 0h}]": "resources[0].time: '0h' means no limit to SLURM; write",
    "resources: [{time: 2m}]": "warning_seconds: 120 s exceeds the shortest `time` of",
    "warning_seconds: 65536": "warning_seconds: 65536 s exceeds",
    "resources: [{}, {runs: a}]": "resources: an entry before the last matches all runs",
    # options of sbatch
    "sbatch: {gres: gpu:4}": "sbatch: gres does not belong here; use `gpus` of resources",
    "sbatch: {mem: 4G}": "sbatch: mem does not belong here; use `memory_gb` of resources",
    "sbatch: {qos: high}": "sbatch: qos does not belong here; use that key of the site",
    "sbatch: {--x-y: 1}": "sbatch: '--x-y' is not a long option name; write it",
    "sbatch: {t: 1}": "sbatch: 't' is not a long option name; write",
    "sbatch: {exclusive: false}": "sbatch: exclusive: false would be passed as its value; remove",
}


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: text[:40])
def test_what_is_not_understood_is_refused(tmp_path: Path, text: str) -> None:
    message = refusal(site(tmp_path, text))
    assert message.startswith(REFUSED[text])
    assert ";" in message


OURS = (
    "time",
    "output",
    "error",
    "array",
    "dependency",
    "signal",
    "job-name",
    "requeue",
    "comment",
)


@pytest.mark.parametrize("name", [*OURS, "Job_Name", "--time"])
def test_options_that_the_launch_sets_are_refused(tmp_path: Path, name: str) -> None:
    message = refusal(site(tmp_path, f"sbatch: {{{name}: x}}"))
    assert message.startswith(f"sbatch: {name} does not belong here; ")
    if name.endswith("time"):
        assert message.endswith("use `time` of resources")


def test_every_field_that_is_an_option_is_refused_as_one(tmp_path: Path) -> None:
    for name in ("partition", "account", "qos", "constraint", "reservation", "exclude", "nodelist"):
        assert name in {field.name for field in fields(Cluster)}
        assert "use that key of the site" in refusal(site(tmp_path, f"sbatch: {{{name}: x}}"))
    keys = {field.name for field in fields(Resources)}
    named = re.findall(r"`(\w+)` of resources", " ".join(cluster.REPLACEMENTS.values()))
    assert set(named) == keys - {"runs", "micro_batch", "per_gpu", "partition"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: *b", "line 1: aliases are not allowed; repeat the value"),
        ("a: &a [*a]", "line 1: aliases are not allowed; repeat the value"),
        ("a: &a x\nb: *a", "line 2: aliases are not allowed; repeat the value"),
        ("[" * 100_000, "line 1: nested too deeply"),
        ("- " * 100_000, "line 1: nested too deeply"),
        ("# " + "x" * 2**20, "1,048,578 bytes, where 1,048,576 are the most"),
        ("resources: [{time: " + "9" * 5000 + "d}]", "resources[0].time: '999"),
    ],
    ids=range(7),
)
def test_what_has_no_end_is_refused(tmp_path: Path, text: str, message: str) -> None:
    """In depth, in size, or by aliases of aliases."""
    found = refusal(site(tmp_path, text))
    assert found.startswith(message)
    assert len(found) < 400


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gpus: [", "line 1: not YAML: "),
        ("a: 1\n\tb: 2", "line 2: not YAML: "),
        ("a: b: c", "line 1: not YAML: "),
        ("? [a]\n: b", "line 1: not YAML: "),
        ("a: 1\n---\nb: 2", "line 2: not YAML: "),
        ("a: \0", "not YAML: "),
    ],
    ids=repr,
)
def test_what_is_not_yaml_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    found = refusal(site(tmp_path, text))
    assert found.startswith(message)
    assert found.endswith("; fix it, or start from a copy of slurm/default.yaml")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "none.yaml"
    assert refusal(path) == f"no such file; `repro doctor --cluster {path}` writes one"
    assert refusal(tmp_path) == "not a regular file; name the YAML file of a site"
    path.write_bytes(b"partition: \xff")
    assert refusal(path) == "not UTF-8; name the YAML file of a site"
    path.unlink()
    path.symlink_to(path)
    assert refusal(path).startswith("cannot be read: Too many levels of symbolic links; ")


# --- what runs ask for ---------------------------------------------------------------------------


def test_the_first_that_matches_counts() -> None:
    entries = (Resources(runs="nest-*-imagenet-*", gpus=8), Resources(runs="nest-*", gpus=2))
    found = Cluster(resources=(*entries, Resources(runs="[pw]*", gpus=4)))
    ids = ["nest-tiny-imagenet-s0", "nest-tiny-cifar10-s0", "pvt-tiny", "wrn28-10"]
    assert [found.resources_for(run).gpus for run in ids] == [8, 2, 4, 4]
    with pytest.raises(ClusterError) as caught:
        found.resources_for("NEST-tiny")  # run ids are told apart by capitals, on every system
    assert str(caught.value) == "resources: none for the run NEST-tiny; add an entry with runs: '*'"


@pytest.mark.parametrize(
    ("resources", "tasks"),
    [
        (Resources(), 1),
        (Resources(gpus=4), 4),
        (Resources(gpus=4, tasks=4), 4),
        (Resources(gpus=0), 1),
        (Resources(gpus=0, tasks=3), 3),
        (Resources(per_gpu=3), 3),
    ],
)
def test_a_task_a_gpu(resources: Resources, tasks: int) -> None:
    assert resources.tasks_per_node == tasks


@pytest.mark.parametrize(
    ("gpus", "option"),
    [
        (Gpus(), {"gpus-per-node": "2"}),
        (Gpus(type="h100"), {"gpus-per-node": "h100:2"}),
        (Gpus(request="gres"), {"gres": "gpu:2"}),
        (Gpus(request="gres", type="h100"), {"gres": "gpu:h100:2"}),
    ],
)
def test_requests_for_gpus(gpus: Gpus, option: dict[str, str]) -> None:
    assert gpus.option(2) == option
    assert gpus.option(0) == {}


# --- minutes -------------------------------------------------------------------------------------


@given(count=st.integers(1, 10**6))
def test_minutes_with_a_unit(count: int) -> None:
    assert minutes(f"{count}m") == count
    assert minutes(f"{count}h") == 60 * count
    assert minutes(f"{count}d") == 1440 * count
    assert Resources(time=f"{count}h").minutes == 60 * count


@given(st.integers(0, 400), st.integers(0, 48), st.integers(0, 59), st.integers(1, 59))
def test_minutes_of_a_clock_are_rounded_up(days: int, hours: int, mins: int, seconds: int) -> None:
    whole = 1440 * days + 60 * hours + mins
    assert minutes(f"{days}-{hours}:{mins:02}:{seconds:02}") == whole + 1
    assert minutes(f"{hours}:{mins:02}:{seconds:02}") == whole - 1440 * days + 1
    assert minutes(f"{days + 1}-{hours:02}:{mins:02}:00") == whole + 1440


NO_TIMES = (
    "", "90", "٣", "m", "1", "1.5h", "-1h", "+1h", "1 h", " 1h", "1h\n", "1H", "1w", "1d12h",
    "12:00", "1-12", "1-12:00", "1:60:00", "1:00:60", "1:0:0", "a:00:00", "infinite", "UNLIMITED",
    "0m", "0h", "0d", "0:00:00", "0-00:00:00",
)  # fmt: skip


@pytest.mark.parametrize("text", NO_TIMES)
def test_what_is_no_time(text: str) -> None:
    """12:00 among them: SLURM reads minutes and seconds, people read hours."""
    with pytest.raises(ClusterError) as caught:
        minutes(text)
    message = str(caught.value)
    assert message.startswith(repr(text))
    assert "; write " in message
    assert len(message.splitlines()) == 1
    assert ("no unit" in message) == text.isdecimal()


def test_the_warning_comes_within_the_shortest_limit() -> None:
    entries = (Resources(runs="a", time="1h"), Resources(time="3m"))
    assert Cluster(resources=entries, warning_seconds=179).warning_seconds == 179
    with pytest.raises(ClusterError, match=r"^warning_seconds: 180 s .* 180 s; write 179 or less$"):
        Cluster(resources=entries, warning_seconds=180)
    with pytest.raises(ClusterError, match=r"write 65535 or less$"):
        Cluster(resources=(Resources(time="30d"),), warning_seconds=70_000)
