"""Where Inception's weights are looked for, and what is said where they are not, or not whole."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

from repro.data.images import DataError
from repro.fidelity import find_inception, inception, prepare_inception, weights
from repro.fidelity.weights import FILE, URL, read_inception

CONTENT = b"weights"
DIGEST = hashlib.sha256(CONTENT).hexdigest()
START = DIGEST[:8]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch.hub's cache, empty; and nothing is fetched, by a port that nobody listens to."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(weights, "URL", f"http://127.0.0.1:9/{FILE}")
    return tmp_path / "home/hub/checkpoints"


def put(folder: Path, content: bytes = CONTENT) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE).write_bytes(content)
    return folder / FILE


def test_the_file_is_the_one_torch_fidelity_fetches() -> None:
    assert URL == URL_INCEPTION_V3


def test_the_named_folder_comes_first_and_then_the_cache(tmp_path: Path, cache: Path) -> None:
    put(cache)
    assert read_inception(tmp_path / "data", START) == (cache / FILE, CONTENT)
    assert read_inception(None, START) == (cache / FILE, CONTENT)
    put(tmp_path / "data")
    assert read_inception(tmp_path / "data", START)[0] == tmp_path / "data" / FILE


def test_missing_weights_are_named_with_both_places(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "URL", URL)
    for look in (inception, find_inception):
        with pytest.raises(DataError) as caught:
            look(tmp_path / "data")
        message = str(caught.value)
        for part in (tmp_path / "data" / FILE, cache / FILE, URL, "`repro prepare inception`"):
            assert str(part) in message
        assert "\n" not in message
    assert not cache.exists()


def test_a_wrong_file_in_the_folder_is_not_passed_over_for_the_cache(
    tmp_path: Path, cache: Path
) -> None:
    put(cache)
    wrong = put(tmp_path / "data", CONTENT[:-1])
    for look in (read_inception, prepare_inception):
        with pytest.raises(DataError) as caught:
            look(tmp_path / "data", START)
        assert str(caught.value).startswith(f"{wrong}: truncated or altered (6 bytes, sha256 ")
        assert str(caught.value).endswith("remove it and run `repro prepare inception`")
    with pytest.raises(DataError, match="not 6726825d"):
        find_inception(None)
    with pytest.raises(DataError, match="not 6726825d"):
        prepare_inception(None)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir()
    with pytest.raises(DataError, match=r"6726825d\.pth: not a regular file; run"):
        find_inception(tmp_path)


# Preparing.


def test_preparing_says_what_is_there(tmp_path: Path) -> None:
    path = put(tmp_path / "data")
    lines = prepare_inception(tmp_path / "data", START)
    assert lines == [f"inception: {path}, verified (sha256 {DIGEST})"]


@pytest.mark.parametrize("named", [True, False])
def test_preparing_fetches_what_is_missing(
    named: bool, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = put(tmp_path / "server").as_uri()
    monkeypatch.setattr(weights, "URL", source)
    folder = tmp_path / "data/inception" if named else None
    path = (folder or cache) / FILE
    lines = prepare_inception(folder, START)
    verified = f"inception: {path}, verified (sha256 {DIGEST})"
    assert lines == [f"inception: fetched {source}", verified]
    assert path.read_bytes() == CONTENT
    assert prepare_inception(folder, START) == [verified]


def test_without_a_network_the_file_and_its_places_are_named(tmp_path: Path, cache: Path) -> None:
    folder = tmp_path / "inception"
    with pytest.raises(DataError) as caught:
        prepare_inception(folder)
    message = str(caught.value)
    step = f"put {weights.URL} (95.5 MB, sha256 6726825d...) to {folder / FILE} or {cache / FILE}, "
    assert message.startswith("inception: cannot fetch (<urlopen error [Errno 111]")
    assert f"; {step}then run `repro prepare inception`" in message
    assert "\n" not in message


def test_a_wrong_file_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "URL", put(tmp_path / "server", b"<html>").as_uri())
    with pytest.raises(DataError, match=r"cannot fetch.*invalid hash value.*; put file:"):
        prepare_inception(tmp_path / "inception", START)
    assert list((tmp_path / "inception").iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cannot fetch \(not a directory\); put .* to .*/file/in/"):
        prepare_inception(tmp_path / "file" / "in")
