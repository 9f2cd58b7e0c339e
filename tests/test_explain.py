"""`repro explain`: anyone's picture, any trained classifier, and what is wrong in one line."""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save, save_file

from repro import experiments, results
from repro.cli import main
from repro.core.scales import runs_at_scale
from repro.data import composed
from repro.interpret.gradcat import gradcat
from repro.launch import explanation
from repro.models.weights import WRAPPERS
from repro.spec import Classification, Explanation, Model, Profiling, Recipe
from repro.tasks.classification import create
from repro.tasks.explanation import load_classifier
from tests.finished import finish
from tests.interpret.small_models import shaken

SMALL = Model.of(
    "nest_small_imagenet", img_size=64, patch_size=4, depths=(1, 1, 1), embed_dims=(8, 16, 32),
    num_heads=(1, 2, 4),
)  # fmt: skip
VIT = Model.of("deit_small_patch16_224", img_size=64, depth=2, embed_dim=16, num_heads=2)


def training_of(model: Model) -> Classification:
    return Classification(
        model=model, dataset=composed.SINGLES, recipe=Recipe(epochs=1, batch_size=4, lr=1e-3)
    )


def repro(line: str) -> int:
    return main(line.split())


def save_photo(folder: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 255, (90, 130, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "photo.jpg", quality=95)
    return folder / "photo.jpg"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a photograph, and results with a NesT and a ViT in them."""
    monkeypatch.chdir(tmp_path)
    for model in (SMALL, VIT):
        run = training_of(model)
        state = save(create(model, 10, 0.0, 0).state_dict())
        finish(tmp_path / "results", run, extra_files={results.WEIGHTS: state})
    save_photo(tmp_path)
    return tmp_path


def test_a_photograph_has_a_tree_and_maps(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert repro("explain photo.jpg --run nest-small --classes Bag,8,boot --out drawn") == 2
    assert "duplicate class '8'" in capsys.readouterr().err
    assert repro("explain photo.jpg --run nest-small --classes Bag,boot --out drawn") == 0
    names = ["gradcat.svg", "gradcat.png", "maps.svg", "maps.png"]
    assert capsys.readouterr().out.split() == [f"drawn/photo-{name}" for name in names]
    text = "".join(
        ElementTree.fromstring((here / "drawn" / "photo-gradcat.svg").read_text()).itertext()
    )
    assert "Bag" in text
    assert "Ankle boot" in text
    with Image.open(here / "drawn" / "photo-maps.png") as image:
        assert image.width > 500
    before = (here / "drawn" / "photo-gradcat.svg").read_bytes()
    repro("explain photo.jpg --run nest-small --classes Bag,boot --out drawn")
    assert (here / "drawn" / "photo-gradcat.svg").read_bytes() == before


def test_the_tree_is_that_of_the_squeezed_picture(here: Path) -> None:
    run = training_of(SMALL)
    place = (here / "photo.jpg", run, None, ["8"], 1, here / "results", here)
    found = explanation.explain(*place)
    assert found.trees
    net = create(SMALL, 10, 0.0, 0).eval()
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (composed.MEAN, composed.STD))
    x = (torch.from_numpy(found.trees["pixels"]).permute(0, 3, 1, 2) / 255 - mean) / std
    tree = gradcat(net, x.float(), 8)
    assert found.trees["paths"][0, 0].tolist() == tree.path[0].tolist()
    with Image.open(here / "photo.jpg") as image:
        square = np.asarray(image.convert("RGB").resize((64, 64), Image.Resampling.BILINEAR))
    assert np.abs(found.trees["pixels"][0].astype(int) - square).max() <= 1


def test_what_is_no_nest_has_maps_only(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert repro("explain photo.jpg --run deit --top 2") == 0
    assert capsys.readouterr().out.split() == ["photo-maps.svg", "photo-maps.png"]
    text = (here / "photo-maps.svg").read_text()
    assert "Gradient rollout" in text


CLASS_TOKEN = ("deit", "vit")
NOT_AVERAGED = ("cct", "pvt", "regnety-002-glyphs", "regnety-004-glyphs", "resnet50-glyphs")
# On images of 32 px, the last map of a RegNet or ResNet-50 has one position.


def classifiers() -> list[Classification]:
    """A classifier of every architecture that is trained here, as it is at demo scale."""
    runs = [run for name in experiments.names()
            for _, run in runs_at_scale(experiments.get(name).cells, "demo")]  # fmt: skip
    runs += [run.trained for run in runs if isinstance(run, Explanation) and run.trained]
    found = {run.model: run for run in runs if isinstance(run, Classification)}
    return list(found.values())


@pytest.mark.parametrize("run", classifiers(), ids=lambda run: run.slug)
def test_every_classifier_trained_here_explains(run: Classification, tmp_path: Path) -> None:
    classes = 100 if run.dataset == "glyphs" else 10
    state = shaken(create(run.model, classes, 0.0, 0)).state_dict()
    weights = tmp_path / "own.safetensors"
    save_file(state, weights)
    photo = save_photo(tmp_path)
    found = explanation.explain(photo, run, weights, ["1"], 1, tmp_path, tmp_path)
    has_one_token = dict(run.model.options).get("depths") == (1, 1, 1, 1)
    rollout = run.slug.startswith(CLASS_TOKEN)
    hires = run.slug.startswith(NOT_AVERAGED) or has_one_token
    assert found.method == ("Gradient rollout" if rollout else "HiResCAM" if hires else "CAM")
    assert np.ptp(found.maps[0]["maps"]) > 0
    assert bool(found.trees or found.note) == run.slug.startswith("nest")
    assert found.note.startswith("no tree: 1×1 tokens") == has_one_token


def test_the_docs_explain_by_weights_that_are_in_git(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(__file__).parents[1]
    monkeypatch.chdir(tmp_path)
    save_photo(tmp_path)
    page = (root / "docs/interpretability.md").read_text()
    lines = [line.partition("#")[0].split() for line in page.splitlines()]
    here = [line[1:] for line in lines if line[:2] == ["repro", "explain"] and "-s0" in line[4]]
    assert here
    for words in here:
        (run,) = (root / "results").glob(f"{words[words.index('--run') + 1]}*")
        assert git("ls-files", str(run / results.WEIGHTS), at=root)
        assert main([*words, "--results", str(root / "results")]) == 0


def git(*words: str, at: Path) -> str:
    return subprocess.run(
        ["git", *words], cwd=at, check=True, capture_output=True, text=True
    ).stdout


@pytest.mark.parametrize(
    "command",
    [
        "explain nothing.jpg --run nest",
        "explain photo.jpg --run nest --weights new.pth",
        "explain photo.jpg --run other",
        "explain photo.jpg --run nest --top 5",
        "sample deit",
        "sample nothing",
        "sample deit --n 1000000000",
        "sample deit --n 0",
        "sample deit --seed 99999999999999999999",
        "prepare cifar",
    ],
)
def test_cheap_checks_come_before_torch(command: str, here: Path) -> None:
    lay_out_bad_files(here)
    code = (
        "import sys; from repro.cli import main; status = main(sys.argv[1:]); "
        "print(status, 'torch' in sys.modules)"
    )
    words = [sys.executable, "-c", code, *command.split()]
    done = subprocess.run(words, capture_output=True, text=True, cwd=here)
    assert done.stdout == "2 False\n", done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("wrapper", [*WRAPPERS, "state_dict.module.", "module._orig_mod."])
def test_weights_in_a_wrapper_are_understood(wrapper: str, tmp_path: Path) -> None:
    state = shaken(create(VIT, 10, 0.0, 0)).state_dict()
    inner = {f"{wrapper}{name}": tensor for name, tensor in state.items()}
    save_file({**inner, "optimizer.step": torch.zeros(1)}, tmp_path / "mine.safetensors")
    net = load_classifier(training_of(VIT), 10, tmp_path / "mine.safetensors")
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())


def test_a_damaged_spec_is_named(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec_file = results.folder(here / "results", training_of(SMALL)) / results.SPEC
    for content in (b"", b"\xff", b"[]", b'{"class": "Classification"}', b"{" * 100_000):
        spec_file.write_bytes(content)
        for verb in ("explain photo.jpg --run", "sample"):
            assert repro(f"{verb} nest-small") == 2
            error = capsys.readouterr().err
            assert error.count("\n") == 1
            assert str(spec_file.name) in error
    spec_file.unlink()
    assert repro("explain photo.jpg --run nest-small") == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_weights_of_another_place(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = results.folder(here / "results", training_of(SMALL)) / results.WEIGHTS
    os.replace(source, here / "mine.safetensors")
    assert repro("explain photo.jpg --run nest-small") == 2
    assert "weights are not in git; train the run in another" in capsys.readouterr().err
    line = "explain photo.jpg --run nest-small --weights mine.safetensors"
    assert repro(line) == 0
    source.write_bytes(b"damaged")
    assert repro("explain photo.jpg --run nest-small") == 2
    assert f"{results.WEIGHTS} is damaged (its digest is another)" in capsys.readouterr().err


def lay_out_bad_files(here: Path) -> None:
    (here / "text.jpg").write_text("not a picture")
    os.mkfifo(here / "pipe")
    (here / "huge.jpg").touch()
    os.truncate(here / "huge.jpg", 200_000_001)
    (here / "empty").touch()
    state = create(VIT, 10, 0.0, 0).state_dict()
    torch.save(state, here / "new.pth")
    torch.save(state, here / "old.pth", _use_new_zipfile_serialization=False)
    save_file({"a": torch.zeros(1)}, here / "other.safetensors")
    state["head.bias"][3] = torch.nan
    save_file(state, here / "nan.safetensors")
    state["head.bias"][3] = 3e38
    save_file(state | {"head.weight": torch.full_like(state["head.weight"], 3e38)},
              here / "overflow.safetensors")  # fmt: skip
    (here / "half.safetensors").write_bytes((here / "nan.safetensors").read_bytes()[:-100])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("nothing.jpg --run nest", "nothing.jpg: No such file or directory; name an image file"),
        ("text.jpg --run nest", "text.jpg: text, not an image; name an image file"),
        (". --run nest", ".: not a regular file"),
        ("pipe --run nest", "pipe: not a regular file"),
        ("/dev/zero --run nest", "/dev/zero: not a regular file"),
        ("huge.jpg --run nest", "huge.jpg: 200,000,001 bytes, where 200,000,000 are the most"),
        ("photo.jpg --run nest --classes tench", "class 'tench' is none of the 10 classes"),
        ("photo.jpg --run nest --classes 10", "class '10' is none of the 10 classes"),
        ("photo.jpg --run nest --classes ²", "class '²' is none of the 10 classes"),
        ("photo.jpg --run nest --classes o", "class 'o' is ambiguous: 0 T-shirt/top, 1 Trouser"),
        ("photo.jpg --run nest --classes 1,2,3,4,5", "at most 4 classes"),
        ("photo.jpg --run nest --top 5", "--top: a whole number from 1 to 4"),
        ("photo.jpg --run nest --out text.jpg", "--out text.jpg is a file"),
        ("photo.jpg --run vgg", "no run 'vgg'"),
        ("photo.jpg --run counted", "counted by nobody"),
        ("photo.jpg --run timm:resnet18", "none of the released weights of the paper: resnet50.tv"),
        ("photo.jpg --run nest --weights text.jpg", "text.jpg is not a safetensors file"),
        ("photo.jpg --run nest --weights .", ". is not a regular file"),
        ("photo.jpg --run nest --weights pipe", "pipe is not a regular file"),
        ("photo.jpg --run nest --weights none", "none: No such file or directory"),
        ("photo.jpg --run nest --weights empty", "empty is empty"),
        ("photo.jpg --run nest --weights new.pth", "new.pth is a pickle, which is never loaded"),
        ("photo.jpg --run nest --weights old.pth", "old.pth is a pickle, which is never loaded"),
        ("photo.jpg --run nest --weights half.safetensors", "is damaged"),
        (
            "photo.jpg --run deit --weights other.safetensors",
            "other.safetensors has weights of "
            "another model: missing blocks.0.attn.proj.bias, blocks.0.attn.proj.weight, "
            "blocks.0.attn.qkv.bias and 29 more; unexpected a",
        ),
        (
            "photo.jpg --run deit --weights overflow.safetensors",
            "cannot be explained: the classifier's logits are not finite",
        ),
        (
            "photo.jpg --run deit --weights nan.safetensors",
            "has NaN or infinite weights: head.bias",
        ),
        ("photo.jpg --run timm:nest_tiny_jx.goog_in1k --weights .", "nest_tiny_jx.goog_in1k.safet"),
        (
            "photo.jpg --run timm:nest_tiny_jx.goog_in1k --weights new.pth",
            "new.pth is a file; name the folder of nest_tiny_jx.goog_in1k.safetensors",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    words: str, message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lay_out_bad_files(here)
    if "counted" in words:
        run = Profiling(model=VIT, classes=10, image_size=64)
        folder = results.begin(here / "results", run)
        words, message = words.replace("counted", folder.name), f"{folder.name} is not a classifier"
    assert main(["explain", *words.split()]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    assert message in error
    assert not list(here.glob("*.svg"))
