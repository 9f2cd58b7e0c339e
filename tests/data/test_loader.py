"""The loader: the same batches from any number of workers, which always end, and damaged images."""

import io
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from repro.data.augment.crops import CentreCrop, RandomCrop, decode
from repro.data.imagenet.photos import Photos
from repro.data.images import DataError, Images
from repro.data.loading.chunks import Decode
from repro.data.loading.loader import Batch, batches, default_workers
from repro.data.randomness import sample_keys
from tests import DEVICES

CPU = torch.device("cpu")
CROP = RandomCrop(16, (0.08, 1.0), "bicubic")
CENTRE = CentreCrop(16, 0.875, "bilinear")
COUNT = 100


def encoded(seed: int, kind: str = "JPEG") -> bytes:
    random = np.random.default_rng(seed)
    height, width = random.integers(20, 60, 2)
    file = io.BytesIO()
    Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8)).save(file, kind)
    return file.getvalue()


def photos_in(folder: Path, files: list[bytes]) -> Photos:
    """Files of their own in a folder; the label of the n-th is n."""
    folder.mkdir()
    names = [f"n{number:03}.JPEG" for number in range(len(files))]
    for name, data in zip(names, files, strict=True):
        (folder / name).write_bytes(data)
    ends = torch.tensor([len(name) for name in names]).cumsum(0)
    return Photos(
        files=(folder,),
        file=torch.zeros(len(files), dtype=torch.int32),
        offset=torch.full((len(files),), -1),
        length=torch.tensor([len(data) for data in files]),
        labels=torch.arange(len(files)),
        classes=tuple(names),
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        fingerprint="",
        names=torch.frombuffer(bytearray("".join(names).encode()), dtype=torch.uint8),
        spans=torch.stack([ends - len(names[0]), ends], dim=1),
    )


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Photos:
    files = [encoded(seed, "PNG" if seed % 9 == 0 else "JPEG") for seed in range(COUNT)]
    return photos_in(tmp_path_factory.mktemp("photos") / "train", files)


@pytest.fixture
def damaged(tmp_path: Path) -> Photos:
    """Of 20, numbers 4, 5 and 19 cannot be decoded."""
    files = [encoded(seed) for seed in range(20)]
    files[4], files[5], files[19] = b"", b"<html>", files[19][:200]
    return photos_in(tmp_path / "train", files)


def samples(size: int, *lengths: int, seed: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of these lengths, of random samples."""
    generator = torch.Generator().manual_seed(seed)
    for step, length in enumerate(lengths):
        indices = torch.randint(0, size, (length,), generator=generator)
        yield indices, sample_keys(seed, step, indices)


def all_samples(size: int, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    for indices in torch.arange(size).split(batch_size):
        yield indices, sample_keys(0, 0, indices)


def equal(first: list[Batch], second: list[Batch]) -> bool:
    pairs = list(zip(first, second, strict=True))
    return all(torch.equal(a, b) for one, other in pairs for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("crop", [CROP, CENTRE])
def test_batches_do_not_depend_on_the_workers(
    photos: Photos, crop: RandomCrop | CentreCrop
) -> None:
    lengths = (70, 1, 64, 0, 33)
    found = {
        workers: list(batches(photos, samples(COUNT, *lengths), crop, CPU, workers))
        for workers in (0, 1, 3)
    }
    assert [len(batch.labels) for batch in found[0]] == list(lengths)
    assert equal(found[0], found[1])
    assert equal(found[0], found[3])
    nvjpeg = batches(photos, samples(COUNT, *lengths), crop, CPU, 1, decode="nvjpeg")
    assert equal(found[0], list(nvjpeg))  # without a GPU, the same decoder


def test_a_batch_has_the_requested_images(photos: Photos) -> None:
    pairs = list(samples(COUNT, 40, 50))
    for batch, (indices, keys) in zip(batches(photos, pairs, CROP, CPU, 2), pairs, strict=True):
        draws = CROP.draws(keys)
        expected = [
            CROP(decode(photos.read(index)), drawn)
            for index, drawn in zip(indices.tolist(), draws, strict=True)
        ]
        assert torch.equal(batch.pixels, torch.stack(expected))
        assert batch.pixels.is_contiguous()
        assert torch.equal(batch.labels, photos.labels[indices])
        assert batch.labels.dtype == torch.int64
        assert batch.readable.all()
        assert batch.readable.dtype == torch.bool
        assert torch.equal(batch.keys, keys)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("decode", ["cpu", "nvjpeg"])
def test_every_device_here_gets_the_same(photos: Photos, device: str, decode: Decode) -> None:
    place = torch.device(device)
    (batch,) = batches(photos, samples(COUNT, 40), CENTRE, place, 1, decode=decode)
    (expected,) = batches(photos, samples(COUNT, 40), CENTRE, CPU, 0)
    assert batch.pixels.device.type == batch.labels.device.type == device
    assert batch.readable.device.type == "cpu"
    difference = (batch.pixels.cpu().float() - expected.pixels.float()).abs().mean()
    # Colours of noise, which nvJPEG spreads over 2 x 2 pixels in another way; others differ by 60.
    assert difference <= 20 * (decode == "nvjpeg" and device == "cuda")


def images(size: int = 40) -> Images:
    pixels = torch.randint(0, 256, (size, 3, 32, 32), dtype=torch.uint8)
    return Images(pixels, torch.arange(size), ("a",), (0.5,) * 3, (0.5,) * 3, "")


def test_images_in_memory_are_taken_as_they_are() -> None:
    stored, pairs = images(), list(samples(40, 16, 8))
    for batch, (indices, keys) in zip(batches(stored, pairs, None, CPU, 4), pairs, strict=True):
        assert torch.equal(batch.pixels, stored.pixels[indices])
        assert torch.equal(batch.labels, indices)
        assert torch.equal(batch.keys, keys)
        assert batch.readable.all()


@pytest.mark.parametrize("workers", [0, 2])
def test_images_in_memory_can_be_cropped(workers: int) -> None:
    stored, whole = images(), CentreCrop(48, 0, "bicubic")
    (batch,) = batches(stored, samples(40, 40), whole, CPU, workers)
    (indices, _) = next(samples(40, 40))
    assert torch.equal(batch.pixels[7], whole(stored.pixels[int(indices[7])], []))


def test_photos_need_a_crop(photos: Photos) -> None:
    with pytest.raises(ValueError, match="images of different sizes"):
        batches(photos, [], None, CPU, 0)


def test_no_samples_are_no_batches(photos: Photos) -> None:
    assert list(batches(photos, [], CROP, CPU, 1)) == []


def test_the_global_generator_is_left_alone(photos: Photos) -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    list(batches(photos, samples(COUNT, 40), CROP, CPU, 1))
    assert torch.equal(torch.get_rng_state(), before)


# Images that cannot be decoded.


@pytest.mark.parametrize("workers", [0, 2])
def test_in_training_the_next_readable_one_stands_in(damaged: Photos, workers: int) -> None:
    with pytest.warns(UserWarning, match="unreadable image") as caught:
        found = list(batches(damaged, all_samples(20, 8), CROP, CPU, workers, max_unreadable=0.2))
    taken = [*range(4), 6, 6, *range(6, 19), 0]
    assert torch.cat([batch.labels for batch in found]).tolist() == taken
    assert torch.cat([batch.readable for batch in found]).all()
    keys = sample_keys(0, 0, torch.arange(20))
    for place in (4, 5, 19):
        expected = CROP(decode(damaged.read(taken[place])), CROP.draws(keys)[place])
        assert torch.equal(found[place // 8].pixels[place % 8], expected)
    said = [str(warning.message) for warning in caught]
    assert said == [
        "train/n004.JPEG: empty; using the next image (unreadable image 1, 4 are tolerated)",
        "train/n005.JPEG: not an image; using the next image (unreadable image 2, 4 are tolerated)",
        said[2],
    ]
    assert said[2].startswith("train/n019.JPEG: ")
    assert said[2].endswith("(unreadable image 3, 4 are tolerated)")


@pytest.mark.parametrize("workers", [0, 2])
def test_in_a_test_an_unreadable_sample_is_marked(damaged: Photos, workers: int) -> None:
    pairs = [*all_samples(20, 20), *[pair for _ in range(9) for pair in all_samples(20, 8)]]
    with pytest.warns(UserWarning, match="counted as wrong") as caught:
        found = list(batches(damaged, pairs, CENTRE, CPU, workers, max_unreadable=0.15))
    assert len(caught) == 3  # each once
    assert (~found[0].readable).nonzero().flatten().tolist() == [4, 5, 19]
    assert found[0].labels.tolist() == list(range(20))
    for batch in found:
        assert torch.equal(batch.pixels.flatten(1).amax(1) > 0, batch.readable)


@pytest.mark.filterwarnings("ignore:train/n0")
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("crop", [CROP, CENTRE])
def test_too_many_unreadable_images_are_an_error(
    damaged: Photos, crop: RandomCrop | CentreCrop, workers: int
) -> None:
    with pytest.raises(DataError) as caught:
        list(batches(damaged, all_samples(20, 8), crop, CPU, workers, max_unreadable=0.149))
    assert str(caught.value) == (
        "train/n004.JPEG: empty; the first of 3 unreadable images; 2 of 20 are tolerated: "
        "restore them"
    )
    assert multiprocessing.active_children() == []  # though the traceback is still there


def test_a_set_without_a_readable_image_is_soon_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = list[bytes]()

    def note(data: bytes) -> Tensor:
        tried.append(data)
        return decode(data)

    monkeypatch.setattr("repro.data.loading.chunks.decode", note)
    nothing = photos_in(tmp_path / "train", [b"?"] * 30)
    with pytest.raises(DataError, match="the first of 1 unreadable images; 0 of 30"):
        list(batches(nothing, all_samples(30, 8), CROP, CPU, 0))
    assert len(tried) == 8


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("decode", ["cpu", "nvjpeg"])
def test_a_missing_file_is_an_error_in_one_line(
    tmp_path: Path, workers: int, decode: Decode
) -> None:
    some = photos_in(tmp_path / "train", [encoded(seed) for seed in range(8)])
    (tmp_path / "train" / "n003.JPEG").unlink()
    with pytest.raises(DataError, match=r"^train/n003.JPEG: missing") as caught:
        list(batches(some, all_samples(8, 8), CROP, CPU, workers, decode=decode))
    assert "\n" not in str(caught.value)


# Workers.


def alive(pid: int) -> bool:
    """Whether the process runs: one that has ended may still wait for its parent to notice."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def children() -> list[int]:
    return [child.pid for child in multiprocessing.active_children() if child.pid]


def test_workers_end_when_the_iterator_is_closed(photos: Photos) -> None:
    with closing(batches(photos, samples(COUNT, *[32] * 50), CROP, CPU, 2)) as stream:
        next(stream)
        pids = children()
        assert len(pids) == 2
    assert not any(alive(pid) for pid in pids)


def test_workers_ignore_the_signals_meant_for_the_training(photos: Photos) -> None:
    expected = list(batches(photos, samples(COUNT, *[32] * 50), CROP, CPU, 0))
    stream = batches(photos, samples(COUNT, *[32] * 50), CROP, CPU, 2)
    found = [next(stream)]
    for pid in children():
        for number in ("TERM", "INT", "HUP", "QUIT", "USR2"):
            subprocess.run(["kill", f"-{number}", str(pid)], check=True)  # not from their parent
    found += stream
    assert equal(found, expected)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()


def test_workers_obey_their_parent(photos: Photos) -> None:
    """multiprocessing ends them so, when an error ends the process with the iterator still open."""
    stream = batches(photos, samples(COUNT, *[32] * 50), CROP, CPU, 2)
    next(stream)
    workers = multiprocessing.active_children()
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # DataLoader's, which raises an error
    try:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.join(30)
        assert [worker.exitcode for worker in workers] == [0, 0]
    finally:
        signal.signal(signal.SIGCHLD, before)


ENDLESS = """
import multiprocessing, os, signal, sys, time, torch
from pathlib import Path
from repro.data.loading.loader import batches
from tests.data.test_loader import CPU, CROP, encoded, photos_in

for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
    signal.signal(number, lambda *_: print("asked", flush=True))
photos = photos_in(Path(sys.argv[1]), [encoded(seed) for seed in range(50)])
stuck = Path(sys.argv[1], "n049.JPEG")  # whoever opens it waits for ever, as on a dead file server
stuck.unlink()
os.mkfifo(stuck)
samples = [(torch.arange(49), torch.arange(49))] + 99 * [(torch.full((64,), 49), torch.arange(64))]
stream = batches(photos, samples, CROP, CPU, 2)
next(stream)
print(*(child.pid for child in multiprocessing.active_children()), flush=True)
if sys.argv[2] == "error":
    raise SystemExit("with the iterator open")
while True:
    time.sleep(0.1)
"""


Started = tuple[subprocess.Popen[str], list[int]]


@pytest.fixture
def endless(tmp_path: Path) -> Iterator[Callable[[str], Started]]:
    """Start a training in a process of its own: that, and the process ids of its workers."""
    started = list[Started]()

    def start(how: str) -> Started:
        command = [sys.executable, "-c", ENDLESS, str(tmp_path / "train"), how]
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, stdout=pipe, stderr=subprocess.DEVNULL, text=True)
        assert process.stdout
        started.append((process, [int(pid) for pid in process.stdout.readline().split()]))
        return started[-1]

    yield start
    for process, pids in started:
        process.kill()
        for pid in filter(alive, pids):
            os.kill(pid, signal.SIGKILL)
        process.communicate()


def test_workers_end_when_their_parent_is_killed(
    endless: Callable[[str], Started],
) -> None:
    process, pids = endless("wait")
    assert len(pids) == 2
    assert all(alive(pid) for pid in pids)
    process.kill()
    wait_until(lambda: not any(alive(pid) for pid in pids), seconds=20)


def test_an_error_with_the_iterator_open_ends_at_once(
    endless: Callable[[str], Started],
) -> None:
    process, pids = endless("error")
    assert process.wait(20) == 1
    assert not any(alive(pid) for pid in pids)


def test_a_signal_to_all_processes_reaches_the_training_alone(
    endless: Callable[[str], Started],
) -> None:
    process, pids = endless("wait")
    for pid in (*pids, process.pid):
        os.kill(pid, signal.SIGTERM)
    assert process.stdout
    assert process.stdout.readline() == "asked\n"
    time.sleep(0.3)
    assert all(alive(pid) for pid in (*pids, process.pid))


@pytest.mark.parametrize(
    ("cores", "ranks", "workers"), [(16, None, 15), (112, 8, 13), (2, 1, 1), (1, 1, 1), (4, 8, 1)]
)
def test_default_workers(
    cores: int, ranks: int | None, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)))
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if ranks:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
    assert default_workers() == workers
