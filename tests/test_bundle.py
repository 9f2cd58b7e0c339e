"""`repro export` and `repro import`: what travels, what is refused, and what a kill leaves."""

from __future__ import annotations

import fcntl
import io
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import time
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repro import cli, experiments, results
from repro.core import artifacts, bundle, exchange, records, staging
from repro.core.bundle import BundledRun, Manifest
from repro.launch import state
from repro.render.item import render
from repro.results import ORIGIN, RESULT, SPEC, ResultsError
from tests.finished import npz
from tests.launch import full_disk

COMMITTED = Path(__file__).parents[1] / "results"
# Two seeds of a cell, a classifier with weights, maps, trees, images of a generator, counts.
SEEDS = (
    "gradcat-ascent-norm-nest-small-imagenet-cues-local-plain-s0-0907789f",
    "gradcat-ascent-norm-nest-small-imagenet-cues-local-plain-s1-71e692e2",
)
CLASSIFIER = "wrn28-10-fashion-mnist-6k-4ep-s0"
PREFIXES = (
    *SEEDS,
    CLASSIFIER,
    "ceiling-4x4-cues-local-textured-s0",
    "gradcat-ascent-input-nest-small-imagenet-cues-shape-textured-s0-23d4eb20",
    "transposed-nest-64-fashion-mnist-6k-600st-s0-a4bd7a1a",
    "cct-7-3x1-32px-10-counted-70846554",
)

Tree = dict[str, bytes]


def committed(prefix: str) -> Path:
    """The first committed run whose id begins so."""
    return sorted(COMMITTED.glob(f"{prefix}*"))[0]


NAMES = {prefix: committed(prefix).name for prefix in PREFIXES}
FIRST, SECOND, COUNTED = NAMES[SEEDS[0]], NAMES[SEEDS[1]], NAMES[PREFIXES[-1]]


def tree(root: Path) -> Tree:
    """Every file below a folder, hidden ones too."""
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def without_origins(found: Tree) -> Tree:
    return {name: data for name, data in found.items() if not name.endswith(ORIGIN)}


def copied(root: Path, *prefixes: str) -> Path:
    """A results folder with these committed runs."""
    for prefix in prefixes:
        shutil.copytree(COMMITTED / NAMES[prefix], root / NAMES[prefix])
    return root


def stored(root: Path) -> list[Any]:
    return [results.stored_run(root / name) for name in sorted(results.run_ids(root))]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copied(tmp_path_factory.mktemp("source") / "results", *PREFIXES)


@pytest.fixture(scope="module")
def file(source: Path) -> Path:
    """A bundle of all runs of `source`."""
    path = source.parent / "runs.zip"
    exchange.export(source, stored(source), path, "Elsewhere")
    return path


@pytest.fixture(scope="module")
def small(source: Path) -> Path:
    """A bundle of one run."""
    path = source.parent / "small.zip"
    exchange.export(source, [results.stored_run(source / FIRST)], path, "Elsewhere")
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "results"


Output = pytest.CaptureFixture[str]


def call(capsys: Output, *words: object) -> tuple[int, str, str]:
    """Status, output and errors of a command."""
    status = cli.main([str(word) for word in words])
    out, err = capsys.readouterr()
    return status, out, err


def refused(root: Path, path: Path) -> str:
    """Why a bundle is refused; the results are as they were."""
    before = tree(root) if root.exists() else None
    with pytest.raises(ResultsError) as caught:
        exchange.import_bundle(root, path)
    assert (tree(root) if root.exists() else None) == before
    line = str(caught.value)
    assert line.count("\n") == 0
    return line


# --- what travels --------------------------------------------------------------------------------


def test_a_round_trip_is_exact(source: Path, file: Path, root: Path) -> None:
    done = exchange.import_bundle(root, file)
    assert list(done.new) == sorted(NAMES.values())
    expected = {name: data for name, data in tree(source).items() if "weights" not in name}
    assert without_origins(tree(root)) == expected
    assert {results.origin(path) for path in root.iterdir()} == {"Elsewhere"}
    assert all(results.outcome(root, run).state == "done" for run in stored(root))


def test_the_same_runs_make_the_same_bytes(source: Path, file: Path, root: Path) -> None:
    """Also where they were imported: a run keeps its site."""
    again = root.with_name("again.zip")
    exchange.export(source, reversed(stored(source)), again, "Elsewhere")
    assert again.read_bytes() == file.read_bytes()
    exchange.import_bundle(root, file)
    exchange.export(root, stored(root), again, "Elsewhere")
    assert again.read_bytes() == file.read_bytes()


def test_any_program_for_zip_files_reads_it(file: Path) -> None:
    with zipfile.ZipFile(file) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        manifest = json.loads(archive.read(bundle.MANIFEST))
    assert names[0] == bundle.MANIFEST
    assert names[1:] == [f"{r['id']}/{f['name']}" for r in manifest["runs"] for f in r["files"]]
    assert not any("weights" in name or "samples/" in name for name in names)


def test_a_site_has_a_random_name_that_stays(tmp_path: Path) -> None:
    homes = [copied(tmp_path / name / "results", SEEDS[0]) for name in ("a", "b")]
    names = [exchange.site_of(home) for home in homes]
    assert names == [exchange.site_of(home) for home in homes]
    assert names[0] != names[1]
    assert all(re.fullmatch("site-[0-9a-f]{12}", name) for name in names)
    assert results.run_ids(homes[0]) == {FIRST}


def test_the_commands(root: Path, file: Path, capsys: Output) -> None:
    copied(root, *SEEDS)
    begun = root / NAMES[CLASSIFIER]
    begun.mkdir()
    shutil.copy(COMMITTED / NAMES[CLASSIFIER] / SPEC, begun)
    path = root.with_name("two.zip")
    words = ("export", FIRST, SECOND[:-3], NAMES[CLASSIFIER], path, "--results", root)
    status, out, err = call(capsys, *words, "--site", "ETH Zürich")
    assert (status, err) == (0, "")
    assert out.startswith(f"skipped {NAMES[CLASSIFIER]}: started\nexported 2 runs to {path}, ")
    status, out, _ = call(capsys, "import", path, "--results", root.with_name("other"))
    assert status == 0
    assert out.startswith(f"imported 2 runs from {path}\n")
    assert out.endswith("1 cell with seeds from 1 site\n")


def test_an_item_is_exported_with_its_options(source: Path, tmp_path: Path, capsys: Output) -> None:
    path = tmp_path / "item.zip"
    words = ("export", "figure2", path, "--results", source, "--site", "x")
    status, out, _ = call(capsys, *words, "--scale", "proxy", "--seeds", 1)
    assert status == 0
    assert re.search(r"skipped \d+ runs without a result: missing\nexported 2 runs", out)
    status, out, _ = call(capsys, *words, "--only", "+ gradient, after the norm")
    assert "exported 2 runs" in out
    with bundle.open_bundle(path) as found:
        assert [run["id"] for run in found.manifest["runs"]] == sorted([FIRST, SECOND])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "FILE"),
        (["FILE"], "export what?"),
        (["table3", "FILE"], "nothing to export"),
        (["nothing-such", "FILE"], "no run 'nothing-such'"),
        ([FIRST, "."], "is a folder"),
        ([FIRST, "none/FILE"], "No such file or directory"),
        ([FIRST, "FILE", "--site", "<b>"], "--site: letters, digits"),
        ([FIRST, "FILE", "--only", "NesT-T"], "--only chooses"),
    ],
)
def test_what_cannot_be_exported(
    source: Path, tmp_path: Path, capsys: Output, words: list[str], said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    status, _, err = call(capsys, "export", *words, "--results", source)
    assert (status, err.count("\n")) == (2, 1)
    assert said in err
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_or_stale_run_is_not_exported(root: Path, capsys: Output) -> None:
    copied(root, *SEEDS)
    path = root.with_name("x.zip")
    path.write_bytes(b"kept")
    (root / FIRST / "predictions.npz").write_bytes(b"")
    status, _, err = call(capsys, "export", FIRST, SECOND, path, "--results", root)
    assert status == 2
    assert f"cannot export {FIRST}, which is damaged" in err
    spec = root / SECOND / SPEC
    shutil.rmtree(root / FIRST)
    run = stored(root)[0]
    spec.write_text(spec.read_text().replace('"seed": 1', '"seed": 7'))
    with pytest.raises(ResultsError, match=f"cannot export {SECOND}, which is stale"):
        exchange.export(root, [run], path)
    assert "rename it" in call(capsys, "export", SECOND, path, "--results", root)[2]
    assert path.read_bytes() == b"kept"
    assert [p.name for p in root.parent.iterdir() if p.name.endswith(".tmp")] == []


# --- what is here already ------------------------------------------------------------------------


def test_an_import_is_made_once(file: Path, root: Path, capsys: Output) -> None:
    copied(root, SEEDS[0])
    assert "imported 6 runs" in call(capsys, "import", file, "--results", root)[1]
    before, times = tree(root), {p: p.stat().st_mtime_ns for p in root.rglob("*")}
    status, out, _ = call(capsys, "import", file, "--results", root)
    assert status == 0
    assert out.startswith("7 runs were here already, with the same bytes\nmanifest sha256 ")
    assert "imported" not in out
    assert tree(root) == before
    assert {p: p.stat().st_mtime_ns for p in root.rglob("*")} == times
    assert results.origin(root / FIRST) == ""


def test_the_sites_of_a_cell_are_counted(file: Path, root: Path, capsys: Output) -> None:
    copied(root, SEEDS[0])
    _, out, _ = call(capsys, "import", file, "--results", root)
    lines = out.splitlines()[3:]
    assert lines[0] == "5 cells with seeds from 1 site"
    assert lines[1] == "1 cell with seeds from 2 sites"
    assert lines[2] == f"  {FIRST} and its other seeds: 1 here, 1 from Elsewhere"
    only = root.with_name("only.zip")
    exchange.export(root, stored(root)[:1], only, "Third")
    third = copied(root.with_name("third"), SEEDS[1])
    assert exchange.import_bundle(third, only).cells


def test_a_table_and_why_name_the_sites(file: Path, root: Path, capsys: Output) -> None:
    copied(root, SEEDS[0])
    exchange.import_bundle(root, file)
    table = render(experiments.get("figure2"), "proxy", root, seeds=2).table
    assert "Runs from 2 sites: 1 computed here, 2 at Elsewhere." in table
    address = "figure2/+ gradient, after the norm/Patterns on plain grounds/trained"
    words = ("why", address, "--scale", "proxy", "--results", root)
    assert call(capsys, *words)[1].count("computed at Elsewhere") == 1
    assert "site" in results.frame("figure2", scale="proxy", root=root)


def test_a_damaged_origin_is_named(file: Path, root: Path) -> None:
    exchange.import_bundle(root, file)
    run = results.stored_run(root / FIRST)
    (root / FIRST / ORIGIN).write_text('{"site": "<b>", "bundle": ""}')
    found = results.outcome(root, run)
    assert (found.state, "origin.json is damaged" in found.note) == ("damaged", True)


def test_a_run_with_other_bytes_is_refused(file: Path, root: Path) -> None:
    copied(root, *SEEDS)
    change(root / FIRST, RESULT, lambda data: data.replace(b'"started"', b'"begun"'))
    assert f"{FIRST} is here already with another {RESULT}" in refused(root, file)


@pytest.mark.parametrize("keep", [(), (SPEC,), (SPEC, RESULT)])
def test_a_run_that_is_begun_or_damaged_here_is_refused(
    file: Path, root: Path, keep: tuple[str, ...]
) -> None:
    (root / FIRST).mkdir(parents=True)
    for name in keep:
        shutil.copy(COMMITTED / FIRST / name, root / FIRST)
    assert re.search(f"{FIRST} is here already, (empty|started|damaged); ", refused(root, file))


def test_a_folder_that_differs_in_case_is_refused(file: Path, root: Path) -> None:
    (root / FIRST.upper()).mkdir(parents=True)
    assert "differ in case only" in refused(root, file)


def test_a_copy_of_a_seed_is_refused(source: Path, root: Path, tmp_path: Path) -> None:
    """Within a bundle, and beside a seed that is here."""
    fake = copied(tmp_path / "fake", *SEEDS)
    for name in ("predictions.npz", RESULT):
        shutil.copy(fake / FIRST / name, fake / SECOND / name)
    # The same arrays in other bytes.
    arrays = dict(np.load(fake / SECOND / "predictions.npz"))
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    change(fake / SECOND, "predictions.npz", lambda _: buffer.getvalue())
    both = forge(tmp_path / "both.zip", fake)
    assert f"{FIRST} and {SECOND} have the same predictions" in refused(root, both)
    shutil.rmtree(fake / FIRST)
    one = forge(tmp_path / "one.zip", fake)
    copied(root, SEEDS[0])
    assert f"{FIRST} and {SECOND} have the same predictions" in refused(root, one)


# --- archives that are refused -------------------------------------------------------------------


def forge(path: Path, folder: Path, edit: Callable[[Any], object] = lambda _: None) -> Path:
    """A well-formed bundle of whatever is in a folder, with an edited manifest."""
    runs = [
        BundledRun(id=run.name, site="Forger", files=[
            bundle.describe_file(name, data) for name, data in sorted(tree(run).items())
            if "weights" not in name
        ])
        for run in sorted(folder.iterdir())
    ]  # fmt: skip
    manifest = Manifest(format="repro results", schema=1, site="Forger", runs=runs)
    edit(manifest)
    with path.open("wb") as file:
        bundle.write(file, manifest, folder)
    return path


def change(folder: Path, name: str, edit: Callable[[bytes], bytes]) -> None:
    """Edit a file of a run, and the digest that its result has of it."""
    path = folder / name
    data = edit(path.read_bytes() if path.exists() else b"")
    path.write_bytes(data)
    if name not in (SPEC, RESULT):
        result = json.loads((folder / RESULT).read_text())
        result["files"][name] = artifacts.digest(data)
        (folder / RESULT).write_text(json.dumps(result))


def rezipped(file: Path, path: Path, edit: Callable[[zipfile.ZipInfo], object] = lambda _: None,
             more: Mapping[str, bytes] | None = None) -> Path:  # fmt: skip
    """The same files in an archive of Python's own, each entry edited, with further entries."""
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(path, "w") as new, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # duplicate names
        for info in old.infolist():
            entry = zipfile.ZipInfo(info.filename)
            edit(entry)
            new.writestr(entry, old.read(info))
        for name, data in (more or {}).items():
            new.writestr(zipfile.ZipInfo(name), data)
    return path


def renamed(number: int, name: str) -> Callable[[zipfile.ZipInfo], None]:
    """Renames the entry of this number."""
    seen = list[str]()

    def edit(entry: zipfile.ZipInfo) -> None:
        if len(seen) == number:
            entry.filename = entry.orig_filename = name
        seen.append(name)

    return edit


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("../x", "leads out of the folder"),
        (f"{FIRST}/../../x", "leads out of the folder"),
        (f"{FIRST}\\..\\x", "leads out of the folder"),
        ("/etc/passwd", "is absolute"),
        ("~/x", "is absolute"),
        ("C:/x", "is absolute"),
        ("\\\\host\\x", "is absolute"),
        (f"{FIRST}/\x1b[2J", "has control characters"),
        (f"{FIRST}/a\nb", "has control characters"),
        (f"{FIRST}/\u202egnp.exe", "has control characters"),
        (f"{FIRST}/<script>", "is not that of a file of a run"),
        (f"{FIRST}/\\input", "is not that of a file of a run"),
        (f"{FIRST}/", "is not that of a file of a run"),
        (".import/journal.json", "is not that of a file of a run"),
        (f"{FIRST}/{'a' * 500}", "is too long"),
        ("", "is not that of a file of a run"),
        (FIRST, "is not that of a file of a run"),
        (f"{FIRST}/{SPEC}", "two entries are called"),
        (f"{FIRST}/{SPEC.upper()}", "differ in case only"),
        (f"{FIRST.upper()}/x", "differ in case only"),
    ],
)
def test_a_name_is_refused(file: Path, root: Path, tmp_path: Path, name: str, said: str) -> None:
    assert said in refused(root, rezipped(file, tmp_path / "x.zip", more={name: b"x"}))
    if "differ" not in said and "two" not in said:
        path = rezipped(file, tmp_path / "y.zip", renamed(3, name))
        assert said in refused(root, path)


def set_mode(mode: int) -> Callable[[zipfile.ZipInfo], None]:
    return renamed_attributes(lambda entry: setattr(entry, "external_attr", mode << 16))


def renamed_attributes(edit: Callable[[zipfile.ZipInfo], None]) -> Callable[..., None]:
    """Edits the entries of predictions."""
    return lambda entry: edit(entry) if "predictions" in entry.filename else None


def compressed(method: int) -> Callable[[zipfile.ZipInfo], None]:
    return renamed_attributes(lambda entry: setattr(entry, "compress_type", method))


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (set_mode(0o120777), "is a link"),
        (set_mode(0o020666), "is no regular file"),
        (set_mode(0o010666), "is no regular file"),
        (set_mode(0o040755), "is no regular file"),
        (compressed(zipfile.ZIP_DEFLATED), "is compressed"),
        (compressed(zipfile.ZIP_BZIP2), "is compressed"),
        (compressed(zipfile.ZIP_LZMA), "is compressed"),
        (renamed_attributes(lambda e: setattr(e, "comment", b"x")), "not an archive as"),
        (renamed_attributes(lambda e: setattr(e, "extra", b"\1\0\0\0")), "bytes that belong to no"),
        (lambda _: None, "not an archive as"),  # with Python's own versions in the headers
    ],
)
def test_an_entry_is_refused(
    file: Path, root: Path, tmp_path: Path, edit: Callable[[Any], object], said: str
) -> None:
    assert said in refused(root, rezipped(file, tmp_path / "x.zip", edit))


CENTRAL = struct.Struct("<4s6H3L5H2L")


def patched(file: Path, path: Path, at: int, layout: str, value: int) -> Path:
    """A bundle with another number in the directory's description of its second entry."""
    data = bytearray(file.read_bytes())
    start = struct.unpack_from("<L", data, len(data) - 6)[0]
    length = struct.unpack_from("<H", data, start + 28)[0]
    struct.pack_into(layout, data, start + CENTRAL.size + length + at, value)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("at", "layout", "value", "said"),
    [
        (8, "<H", 1, "is encrypted"),
        (8, "<H", 0x2000, "is encrypted"),
        (8, "<H", 8, "not an archive as"),
        (10, "<H", 99, "is compressed"),  # how AES is marked
        (24, "<L", 2**32 - 1, "4,294,967,295 bytes, more than a bundle may have"),
        (24, "<L", 2**27, "134,217,728 bytes, more than a bundle may have"),
        (24, "<L", 7, "7 bytes unpacked, but"),
        (20, "<L", 7, "bytes unpacked, but 7 in the archive"),
        (16, "<L", 7, "not that of a bundle"),
        (42, "<L", 7, "not an archive as"),
        (0, "<H", 7, "its directory is damaged"),
    ],
)
def test_a_number_in_the_directory_is_refused(
    file: Path, root: Path, tmp_path: Path, at: int, layout: str, value: int, said: str
) -> None:
    assert said in refused(root, patched(file, tmp_path / "x.zip", at, layout, value))


def test_entries_that_share_bytes_are_refused(file: Path, root: Path, tmp_path: Path) -> None:
    """A zip bomb without compression: one content under many names."""
    many = copied(tmp_path / "many", SEEDS[0])
    data = bytearray(forge(tmp_path / "x.zip", many).read_bytes())
    start, end = struct.unpack_from("<L", data, len(data) - 6)[0], len(data) - 22
    for size in (20, 24):
        struct.pack_into("<L", data, start + size, start)
    path = tmp_path / "y.zip"
    path.write_bytes(data)
    assert end > start
    assert "its files have" in refused(root, path)


def test_an_archive_of_too_many_entries_is_refused(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    path.write_bytes(struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 60_000, 60_000, 0, 0, 0))
    assert "60,000 entries" in refused(root, path)
    path.write_bytes(struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0, 0, 0, 0, 0))
    assert "it has no entries" in refused(root, path)


def test_a_sparse_file_of_any_size_is_refused(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with path.open("wb") as file:
        file.truncate(2**40)
    assert "1,099,511,627,776 bytes" in refused(root, path)


@pytest.mark.parametrize("kept", [0, 1, 21, 22, 100, 0.5, 0.99, -1])
def test_a_truncated_file_is_refused(file: Path, root: Path, tmp_path: Path, kept: float) -> None:
    data, path = file.read_bytes(), tmp_path / "x.zip"
    path.write_bytes(data[: int(kept * len(data)) if isinstance(kept, float) else kept])
    assert "not a bundle, or truncated" in refused(root, path)


@pytest.mark.parametrize("edit", [lambda b: b"x" + b, lambda b: b + b"x", lambda b: b + b])
def test_bytes_around_an_archive_are_refused(
    file: Path, root: Path, tmp_path: Path, edit: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "x.zip"
    path.write_bytes(edit(file.read_bytes()))
    assert "not a bundle" in refused(root, path)


def test_what_is_no_regular_file_is_refused(root: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in refused(root, tmp_path / "pipe")
    assert "not a regular file" in refused(root, Path("/dev/zero"))
    assert "No such file" in refused(root, tmp_path / "none")


@settings(max_examples=60)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_every_bit_of_a_bundle_matters(file: Path, place: float, bit: int) -> None:
    data = bytearray(file.read_bytes())
    data[int(place * len(data))] ^= 1 << bit
    path, root = file.with_name("flipped.zip"), file.with_name("no-results")
    path.write_bytes(data)
    refused(root, path)
    assert not root.exists()


# --- contents that are refused -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda m: m.update(schema=2), "of schema 2, where this version reads 1"),
        (lambda m: m.update(schema=10**30), "manifest.json: "),
        (lambda m: m.update(format="other"), "Invalid enum value"),
        (lambda m: m.update(more=1), "not as `repro export` writes it"),
        (lambda m: m.update(site="<b>x</b>"), "Expected `str` matching"),
        (lambda m: m.update(site="\\input{x}"), "Expected `str` matching"),
        (lambda m: m.update(site="a\x1b"), "Expected `str` matching"),
        (lambda m: m.update(site="a\n"), "Expected `str` matching"),
        (lambda m: m.update(runs=[]), "length >= 1"),
        (lambda m: m["runs"].reverse(), "not in order"),
        (lambda m: m["runs"].append(m["runs"][-1]), "two entries are called"),
        (lambda m: m["runs"][0].pop("site"), "missing required field"),
    ],
)
def test_a_manifest_is_refused(
    root: Path, tmp_path: Path, edit: Callable[[Any], object], said: str
) -> None:
    path = forge(tmp_path / "x.zip", copied(tmp_path / "runs", *SEEDS), edit)
    assert said in refused(root, path)


def reforged(file: Path, path: Path, edit: Callable[[bytes], bytes]) -> Path:
    """The bundle with other bytes as its manifest."""
    with zipfile.ZipFile(file) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    members[0] = (bundle.MANIFEST, edit(members[0][1]))
    with pytest.MonkeyPatch.context() as patch, path.open("wb") as target:
        patch.setattr(bundle, "_members", lambda *_: iter(members))
        bundle.write(target, cast(Manifest, {}), path)
    return path


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (rb'"bytes": \d+', b'"bytes": 1' + b"0" * 400, "manifest.json: "),
        (rb'"bytes": \d+', b'"bytes": 1e999', "manifest.json: "),
        (rb'"bytes": \d+', b'"bytes": -1', "Expected `int` >= 0"),
        (rb'"bytes": \d+', b'"bytes": 268435457', "Expected `int` <= 268435456"),
        (rb'"bytes": \d+', b'"bytes": 7', "is not the entry that its manifest lists"),
        (rb'"sha256": "..', b'"sha256": "zz', "Expected `str` matching"),
        (rb'"sha256": "....', b'"sha256": "0000', "its digest is not that in the manifest"),
        (rb'"id": "', b'"id": "../', "Expected `str` matching"),
        (rb'"schema": 1', b'"schema": 1, "schema": 1', "not as `repro export` writes it"),
        (rb"\{", b"[" * 1000, "nest"),
        (rb"(?s).*", b"\xff\xfe", "manifest.json: "),
    ],
)
def test_the_bytes_of_a_manifest_are_refused(
    file: Path, root: Path, tmp_path: Path, old: bytes, new: bytes, said: str
) -> None:
    path = reforged(file, tmp_path / "x.zip", lambda data: re.sub(old, new, data, count=1))
    assert said in refused(root, path)


def test_an_edited_manifest_needs_its_checksum(file: Path, root: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    path.write_bytes(file.read_bytes().replace(b'"site": "Elsewhere"', b'"site": "Somewhere"'))
    assert "manifest.json: its checksum is another" in refused(root, path)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
KEYS = st.sampled_from(["format", "schema", "site", "runs", "id", "files", "name", "bytes",
                        "sha256"])  # fmt: skip


@settings(max_examples=60)
@given(key=KEYS, value=JSON)
def test_any_other_value_in_a_manifest_is_refused(small: Path, key: str, value: object) -> None:
    def edit(data: bytes) -> bytes:
        manifest = json.loads(data)
        run = manifest["runs"][0]
        (place,) = (v for v in (manifest, run, run["files"][0]) if key in v and
                    (key != "site" or v is run))  # fmt: skip
        place[key] = value
        return (records.encode(manifest, indent=1, sort_keys=True) + "\n").encode()

    path = reforged(small, small.with_name("edited.zip"), edit)
    root = small.with_name("no-results")
    if key == "site" and isinstance(value, str) and re.fullmatch(r"\w[\w .,()+-]*", value):
        assert exchange.import_bundle(root, path).new
        shutil.rmtree(root)
    else:
        refused(root, path)
    assert not root.exists()


def edit_json(edit: Callable[[Any], object]) -> Callable[[bytes], bytes]:
    def edited(data: bytes) -> bytes:
        value = json.loads(data)
        edit(value)
        return json.dumps(value).encode()

    return edited


def with_metric(name: str, value: object) -> Callable[[bytes], bytes]:
    return edit_json(lambda result: result["metrics"].update({name: value}))


def with_fact(name: str, value: object) -> Callable[[bytes], bytes]:
    return edit_json(lambda result: result["provenance"].update({name: value}))


def bomb(megabytes: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        header = io.BytesIO()
        np.save(header, np.zeros(0, np.uint8))
        shape = header.getvalue().replace(b"(0,), }  ", b"(%d,), }" % 10**9)
        with archive.open("a.npy", "w") as member:
            member.write(shape)
            for _ in range(megabytes):
                member.write(bytes(2**20))
    return buffer.getvalue()


def short_bomb() -> bytes:
    """An array whose archive declares a few bytes of the many that it unpacks to."""
    data = bytearray(bomb(1))
    start = data.rindex(b"PK\1\2")
    struct.pack_into("<L", data, start + 24, 200)
    return bytes(data)


PICKLE = npz(a=np.zeros(1)).replace(b"<f8", b"|O ")

ARRAYS = "predictions.npz"
EVIL: Mapping[str, tuple[str, Callable[[bytes], bytes], str]] = {
    "HTML as a metric": (RESULT, with_metric("<b>top1</b>", 1), "not the name of a value"),
    "LaTeX as a metric": (RESULT, with_metric("\\input{x}", 1), "not the name of a value"),
    "capitals as a metric": (RESULT, with_metric("Top", 1), "Expected `str` matching"),
    "a control character as a metric": (RESULT, with_metric("a\x07", 1), "not the name of a value"),
    "a huge integer": (RESULT, with_metric("more", 10**400), "result.json: "),
    "an integer of many digits": (RESULT, with_metric("more", 10**17), "too many digits"),
    "a huge number": (RESULT, with_metric("more", 1e300), "is not within"),
    "NaN": (RESULT, with_metric("more", float("nan")), "result.json: "),
    "an accuracy of 101 %": (RESULT, with_metric("top1", 101), "is not within"),
    "a lost metric": (RESULT, edit_json(lambda r: r["metrics"].popitem()), "among its metrics"),
    "no result yet": (RESULT, edit_json(lambda r: r.update(status="started")), "Invalid enum"),
    "HTML as a device": (RESULT, with_fact("device", "<i>"), "HTML or LaTeX"),
    "an entity": (RESULT, with_fact("device", "&lt;"), "HTML or LaTeX"),
    "LaTeX as a device": (RESULT, with_fact("device", "\\def"), "HTML or LaTeX"),
    "control characters": (RESULT, with_fact("commit", "a\x1b[2J"), "control characters"),
    "a path as the code": (RESULT, with_fact("code", "../../x"), "Expected `str` matching"),
    "a long text": (RESULT, with_fact("commit", "a" * 5000), "too long"),
    "a long reason": (RESULT, with_fact("why", "a" * 50000), "too long"),
    "a text as seconds": (RESULT, with_fact("seconds", "1"), "Expected `float`"),
    "a deep value": (RESULT, lambda _: b"[" * 99 + b"]" * 99, "nest"),
    "a file that is not there": (
        RESULT, edit_json(lambda r: r["files"].update({"maps.npz": "0" * 64})), "is missing",
    ),
    "a file that is not listed": ("page.html", lambda _: b"x", "no file of a run"),
    "no JSON": (RESULT, lambda _: b"{", "result.json: "),
    "HTML in a spec": (
        SPEC, lambda d: d.replace(b'"cues-local-plain"', b'"<b>"'), "HTML or LaTeX",
    ),
    "a spec of another seed": (SPEC, edit_json(lambda s: s.update(seed=5)), "its spec is that"),
    "a huge seed": (SPEC, edit_json(lambda s: s.update(seed=2**60)), "too many digits"),
    "a kind of run that is not known": (
        SPEC, edit_json(lambda s: s.update({"class": "Evil"})), "'Evil' is not known",
    ),
    "a field that is not known": (SPEC, edit_json(lambda s: s.update(evil=1)), "has no field"),
    "a pickle": (ARRAYS, lambda _: pickled(), "not an .npz"),
    "an object array": (ARRAYS, lambda _: PICKLE, "not an .npz"),
    "a zip bomb": (ARRAYS, lambda _: bomb(300), "arrays of 314,572,"),
    "a zip bomb that declares less": (ARRAYS, lambda _: short_bomb(), "not an .npz"),
    "bytes that are no array": (ARRAYS, lambda _: b"x", "not an .npz"),
    "complex numbers": (ARRAYS, lambda _: npz(a=np.zeros(1, complex)), "no numbers"),
    "HTML in an array": (ARRAYS, lambda _: npz(a=np.array(["<b>"])), "HTML or LaTeX"),
    "control characters in an array": (ARRAYS, lambda _: npz(a=np.array(["\x1b"])), "control"),
    "no picture": ("samples.png", lambda _: b"<svg/>", "not a PNG"),
    "HTML in a line of metrics": (
        "metrics.jsonl", lambda _: b'{"<b>": 1, "step": 1}\n', "line 1: Expected `str` matching",
    ),
    "lines of metrics out of order": (
        "metrics.jsonl", lambda _: b'{"step": 2}\n{"step": 1}\n', "steps do",
    ),
}  # fmt: skip


def pickled() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, a=np.array([{}], dtype=object))
    return buffer.getvalue()


@pytest.mark.parametrize("what", EVIL)
def test_a_run_is_refused(root: Path, tmp_path: Path, what: str) -> None:
    """Of two runs the other is not imported either."""
    runs = copied(tmp_path / "runs", *SEEDS)
    name, edit, said = EVIL[what]
    change(runs / SECOND, name, edit)
    line = refused(root, forge(tmp_path / "x.zip", runs))
    assert said in line
    assert SECOND in line
    assert not root.exists()


def test_a_run_under_another_id_is_refused(root: Path, tmp_path: Path) -> None:
    """So that a seed of a cell has one id."""
    runs = copied(tmp_path / "runs", SEEDS[0])
    shutil.copytree(runs / FIRST, runs / f"{FIRST[:-1]}0")
    assert f"its spec is that of {FIRST}" in refused(root, forge(tmp_path / "x.zip", runs))


@pytest.mark.parametrize("name", [SPEC, RESULT, ARRAYS])
def test_a_run_that_lacks_a_file_is_refused(root: Path, tmp_path: Path, name: str) -> None:
    runs = copied(tmp_path / "runs", SEEDS[0])
    (runs / FIRST / name).unlink()
    assert name in refused(root, forge(tmp_path / "x.zip", runs))


def test_an_export_would_be_imported(root: Path, tmp_path: Path) -> None:
    """What an import refuses is refused where it is exported."""
    copied(root, *SEEDS)
    change(root / SECOND, RESULT, with_fact("device", "<i>"))
    assert results.outcome(root, results.stored_run(root / SECOND)).state == "done"
    with pytest.raises(ResultsError, match=f"cannot export {SECOND}: result.json: HTML"):
        exchange.export(root, stored(root), tmp_path / "x.zip", "x")
    assert not (tmp_path / "x.zip").exists()


NAME = st.text(max_size=12) | st.lists(
    st.sampled_from([FIRST, "..", "/", "\\", "a", ".", "\0", "C:", "~", "\n", "<", SPEC]),
    max_size=6,
).map("".join)


@given(name=NAME)
def test_a_good_name_stays_within_its_folder(name: str) -> None:
    if bundle._name_problem(name) == "" and name != bundle.MANIFEST:
        run, _, file = name.partition("/")
        assert re.fullmatch(r"[A-Za-z0-9._/-]+", name)
        assert not run.startswith(".")
        assert ".." not in file.split("/")
        assert Path("/x", name).resolve().is_relative_to(Path("/x", run))
        assert name == str(Path(name))


# --- kills and races -----------------------------------------------------------------------------

# Imports a bundle once for every moment at which it changes a file, each time in a process of its
# own that kills itself then, as `kill -9` does.
KILLED = """
import os, signal, sys
from pathlib import Path
from repro.core import exchange

CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "shutil.rmtree"}
file, here = Path(sys.argv[1]), Path(sys.argv[2])
os.fsync = lambda _: None  # the machine stays on

def until(number):
    count = 0
    def hook(event, args):
        nonlocal count
        flags = args[2] if event == "open" and isinstance(args[2], int) else 0
        if event in CHANGES or flags & (os.O_WRONLY | os.O_RDWR):
            count += 1
            if count > number:
                os.kill(os.getpid(), signal.SIGKILL)
    return hook

number, status = 0, 1
while status:
    root = here / f"{number:03}"
    root.mkdir()
    child = os.fork()
    if not child:
        sys.addaudithook(until(number))
        exchange.import_bundle(root, file)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    number += 1
assert "torch" not in sys.modules
"""


@pytest.fixture(scope="module")
def killed(source: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    """A bundle of three runs, and what each kill left; the last import was not killed."""
    here = tmp_path_factory.mktemp("killed")
    file = here / "three.zip"
    three = [run for run in stored(source) if run.id in (FIRST, SECOND, COUNTED)]
    exchange.export(source, three, file, "Elsewhere")
    (here / "left").mkdir()
    words = [sys.executable, "-c", KILLED, str(file), str(here / "left")]
    subprocess.run(words, check=True)
    return file, sorted((here / "left").iterdir())


def visible(root: Path) -> Tree:
    return {name: data for name, data in tree(root).items() if not name.startswith(".")}


def test_a_kill_leaves_all_or_nothing(killed: tuple[Path, list[Path]]) -> None:
    """To whoever reads first: by the names of the runs, or by the states of some."""
    file, left = killed
    whole, runs = tree(left[-1]), stored(left[-1])
    ids = {run.id for run in runs}
    assert len(left) > 30
    moments = set[int]()
    for number, root in enumerate(left):
        moved = {path.name for path in root.iterdir()} & ids
        moments.add(len(moved))
        if number % 2:
            states = {results.outcome(root, run).state for run in reversed(runs)}
            assert states in ({"done"}, {"missing"}), number
            is_done = states == {"done"}
        else:
            names = state.known_runs(root)
            assert names in (ids, set()), number
            is_done = names == ids
        assert is_done or not moved, number
        assert visible(root) == (whole if is_done else {}), number
        done = exchange.import_bundle(root, file)
        assert len(done.existing) == 3 * is_done
        assert tree(root) == whole, number
        assert {path.name for path in root.iterdir()} == ids, "leftovers"
    assert moments == {0, 1, 2, 3}


def test_an_import_cleans_up_after_a_kill(
    killed: tuple[Path, list[Path]], tmp_path: Path, file: Path
) -> None:
    """Also one of another bundle."""
    begun = tmp_path / "results"
    home = begun / staging.FOLDER
    (home / "runs" / "evil").mkdir(parents=True)
    (home / "runs" / "evil" / SPEC).write_text("{")
    (home / "lock").touch()
    assert state.known_runs(begun) == set()
    exchange.import_bundle(begun, file)
    assert {path.name for path in begun.iterdir()} == set(NAMES.values())


def test_a_damaged_journal_is_named(root: Path, file: Path) -> None:
    """Readers ignore it: one may come from anywhere."""
    home = root / staging.FOLDER
    home.mkdir(parents=True)
    (home / "runs" / "..x").mkdir(parents=True)
    (home / "journal.json").write_text('{"runs": ["../../x"]}')
    assert state.known_runs(root) == set()
    assert "journal.json" in refused(root, file)
    (home / "journal.json").write_text('{"runs": []}')
    assert "journal.json" in refused(root, file)


def test_a_folder_made_meanwhile_is_kept(
    source: Path, file: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = staging.Staging.commit

    def late(area: staging.Staging, runs: list[str]) -> None:
        (area.root / runs[-1]).mkdir(parents=True)
        (area.root / runs[-1] / SPEC).write_text("theirs")
        commit(area, runs)

    monkeypatch.setattr(staging.Staging, "commit", late)
    last = sorted(NAMES.values())[-1]
    with pytest.raises(ResultsError, match=f"{last} was begun here meanwhile; nothing was imp"):
        exchange.import_bundle(root, file)
    assert tree(root) == {f"{last}/{SPEC}": b"theirs"}
    assert [path.name for path in root.iterdir()] == [last]


def test_a_reader_waits_for_a_stopped_import_once(
    killed: tuple[Path, list[Path]], root: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "_PATIENCE_SECONDS", 0.3)
    home = root / staging.FOLDER
    shutil.copytree(COMMITTED / COUNTED, home / "runs" / COUNTED)
    (home / "journal.json").write_text(json.dumps({"runs": [COUNTED]}))
    started = time.monotonic()
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert state.known_runs(root) == set()
        assert time.monotonic() - started > 0.3
        monkeypatch.setattr(staging, "_PATIENCE_SECONDS", 600)
        assert state.known_runs(root) == set()
    assert state.known_runs(root) == {COUNTED}


def test_a_full_disk(source: Path, file: Path, tmp_path: Path, capsys: Output) -> None:
    with full_disk(tmp_path / "disk") as disk:
        (disk / "runs.zip").write_bytes(b"kept")
        words = ("--results", source, "--site", "x")
        status, _, err = call(capsys, "export", *NAMES.values(), disk / "runs.zip", *words)
        assert (status, "No space left on device; what was there is kept" in err) == (2, True)
        assert tree(disk) == {"runs.zip": b"kept"}
        status, _, err = call(capsys, "import", file, "--results", disk / "results")
        assert (status, err.count("\n"), "No space left on device" in err) == (2, 1, True)
        assert tree(disk) == {"runs.zip": b"kept"}
        assert not (disk / "results").exists()


def test_importers_at_once(source: Path, file: Path, root: Path) -> None:
    """One imports, the others find it done; one of a part of the runs waits for its turn too."""
    part = root.with_name("part.zip")
    exchange.export(source, stored(source)[:3], part, "Elsewhere")
    words = [sys.executable, "-m", "repro", "import", "--results", str(root)]
    started = [
        subprocess.Popen([*words, str(path)], stdout=subprocess.PIPE, text=True)
        for path in (file, part, file)
    ]
    said = [process.communicate()[0] for process in started]
    assert [process.returncode for process in started] == [0, 0, 0]
    numbers = [int(found) for text in said for found in re.findall(r"imported (\d+) run", text)]
    assert sum(numbers) == len(NAMES)
    assert {path.name for path in root.iterdir()} == set(NAMES.values())
    assert all(results.outcome(root, run).state == "done" for run in stored(root))
