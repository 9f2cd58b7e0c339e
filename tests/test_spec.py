"""Run identity: what renames a run, what does not, and the golden ids."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro import experiments, spec
from repro.core import plan
from repro.spec import (
    SCALES,
    Classification,
    Evaluation,
    Localization,
    Model,
    Recipe,
    Run,
    SpecError,
)

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden_ids.txt"

RUN = Classification(
    model=Model.of("nest_tiny_cifar", img_size=32),
    dataset="cifar10",
    recipe=Recipe(epochs=300, batch_size=192, lr=1.875e-4),
)


@dataclass(frozen=True)
class Settings:
    rate: float


@dataclass(frozen=True, kw_only=True)
class Probing(Run):
    kind: ClassVar[str] = "probing"
    task: ClassVar[str] = "tests.probing"
    classifier: Classification
    settings: Settings

    @property
    def slug(self) -> str:
        return f"probing-s{self.seed}"

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("top1",)


def all_runs() -> list[Run]:
    found = [experiments.get(name) for name in experiments.names()]
    runs = (run for e in found for scale in SCALES for run in plan.runs(e.cells, scale, seeds=3))
    return list(dict.fromkeys(runs))  # items share runs


def test_golden_ids() -> None:
    """A changed id orphans every result under the old one.

    If a spec was changed on purpose, rewrite the file: python -m tests.test_spec
    """
    assert [run.id for run in all_runs()] == GOLDEN.read_text().split()


def test_the_docs_name_a_run_that_there_is() -> None:
    named = re.findall(r"[a-z0-9-]+-s\d+-[0-9a-f]{8}", (ROOT / "docs/usage.md").read_text())
    assert named
    assert set(named) <= set(GOLDEN.read_text().split())


def test_ids_are_unique_and_fit_a_file_name() -> None:
    ids = [run.id for run in all_runs()]
    assert len(set(ids)) == len(set(all_runs())) == len(ids)
    assert all(len(i) < 100 and set(i) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") for i in ids)


def test_id_ignores_option_order_and_number_spelling() -> None:
    a = replace(RUN, model=Model.of("m", depth=2, width=3))
    b = replace(RUN, model=Model.of("m", width=3.0, depth=2))
    assert a == b
    assert a.id == b.id


@pytest.mark.parametrize("field", [f.name for f in fields(Recipe)])
def test_every_recipe_field_enters_the_id(field: str) -> None:
    value = getattr(RUN.recipe, field)
    other: object
    if isinstance(value, bool):
        other = not value
    elif isinstance(value, str):
        other = "sgd"
    else:
        other = ("x",) if isinstance(value, tuple) else value + 1
    changed: dict[str, Any] = {field: other}
    assert replace(RUN, recipe=replace(RUN.recipe, **changed)).id != RUN.id


def test_a_new_field_with_a_default_renames_nothing() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Wider(Recipe):
        sharpness: float = 0.0

    wider = Wider(epochs=300, batch_size=192, lr=1.875e-4)
    object.__setattr__(wider, "__class__", Wider)
    Wider.__name__ = "Recipe"
    assert spec.canonical(wider) == spec.canonical(RUN.recipe)
    assert spec.canonical(replace(wider, sharpness=1.0)) != spec.canonical(RUN.recipe)


def test_a_changed_default_is_noticed_though_the_id_stays() -> None:
    stored = json.loads(spec.to_json(RUN))
    stored["recipe"]["randaugment_std"] = 0.25
    assert spec.difference(stored, RUN) == "recipe.randaugment_std: 0.25 stored, 0.5 now"


def test_a_field_missing_from_a_stored_spec_counts_as_its_default() -> None:
    stored = json.loads(spec.to_json(RUN))
    del stored["recipe"]["randaugment_std"]
    assert spec.difference(stored, RUN) is None
    changed = replace(RUN, recipe=replace(RUN.recipe, randaugment_std=0.25))
    assert spec.difference(stored, changed) == "recipe.randaugment_std: 0.5 stored, 0.25 now"


def test_a_field_that_a_stored_run_lacks_deep_inside_is_no_difference() -> None:
    """Of a run within a run, where the field that holds it has the default None."""
    judge = replace(RUN, evaluation=Evaluation(image_size=32))
    run = Localization(classifier=judge, dataset="imagenet", attribution="cam")
    stored = json.loads(spec.to_json(run))
    del stored["classifier"]["recipe"]["crop_rule"]
    del stored["classifier"]["evaluation"]["crop_rule"]
    assert spec.difference(stored, run) is None
    changed = replace(run, classifier=replace(judge, recipe=replace(RUN.recipe, zero_head=True)))
    found = spec.difference(stored, changed)
    assert found == "classifier.recipe.zero_head: false stored, true now"


def test_a_removed_field_is_a_difference() -> None:
    stored = json.loads(spec.to_json(RUN)) | {"gone": 1}
    assert spec.difference(stored, RUN) == "gone: 1 stored, absent now"


_values = st.one_of(st.integers(-9, 9), st.text(max_size=3), st.booleans(), st.none())


@given(
    st.dictionaries(st.text("abc", min_size=1, max_size=3), _values | st.tuples(_values, _values)),
    st.integers(0, 99),
    st.floats(0, 1),
)
def test_json_round_trip(options: dict[str, spec.Value], seed: int, rate: float) -> None:
    run = replace(
        RUN, model=Model.of("m", **options), seed=seed, recipe=replace(RUN.recipe, drop_path=rate)
    )
    assert spec.from_json(spec.to_json(run)) == spec.from_json(spec.to_line(run)) == run
    assert spec.from_json(spec.to_json(run)).id == run.id


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a spec"),
        ('{"class": "os.system"}', "'os.system' is not known"),
        ('{"class": "Model", "name": "m"}', "not the spec of a run"),
        ('{"class": "Recipe", "epoch": 3}', "Recipe has no field 'epoch'"),
    ],
)
def test_an_unknown_spec_is_refused(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        spec.from_json(text)


def test_released_weights_are_tested_and_never_trained() -> None:
    tested = replace(RUN, recipe=replace(RUN.recipe, epochs=0), pretrained="timm:nest_tiny")
    assert tested.release == "nest_tiny"
    assert replace(RUN, pretrained=RUN).release == RUN.release == ""
    with pytest.raises(SpecError, match="tested with zero epochs"):
        replace(tested, recipe=RUN.recipe)
    with pytest.raises(SpecError, match="'nest_tiny'; a name is 'timm:<tag>'"):
        replace(tested, pretrained="nest_tiny")


def test_a_kind_of_another_paper_is_stored_and_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the dataclasses that only it has."""
    run = Probing(classifier=RUN, settings=Settings(rate=2.0))
    assert spec.from_json(spec.to_json(run)) == run
    assert run.id.startswith("probing-s0-")
    monkeypatch.delitem(spec.RUN_KINDS, "Probing")
    with pytest.raises(SpecError, match="'Probing' is not known"):
        spec.from_json(spec.to_json(run))


def test_a_second_kind_of_the_same_name_is_refused() -> None:
    with pytest.raises(
        TypeError, match=r"repro\.kinds\.profiling has a kind of run called Profiling"
    ):
        type("Profiling", (Run,), {"kind": "profiling", "task": "profiling"})


def test_a_kind_without_a_task_is_refused() -> None:
    with pytest.raises(TypeError, match="Counting has no task; name the module"):
        type("Counting", (Run,), {"kind": "counting"})


if __name__ == "__main__":
    GOLDEN.write_text("".join(f"{run.id}\n" for run in all_runs()))
