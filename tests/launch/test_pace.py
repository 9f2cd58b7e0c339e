"""The pace of a run: start-up is no part of it, evaluations are."""

from __future__ import annotations

from dataclasses import replace

import pytest

from repro.core.datasets import size_of
from repro.launch.pace import Pace
from repro.launch.progress import eta_seconds, share_of_time
from tests.launch import RUN


def test_start_up_and_an_evaluation_are_no_part_of_the_rate() -> None:
    """After 100 s of start-up a step takes 1 s and an evaluation 20 s, at steps 10, 20 and 30."""
    pace = Pace((10, 20, 30))
    assert pace.report(5, 30, now=100.0) == {}
    facts = pace.report(10, 30, now=105.0)
    assert facts == {"rate": 1.0, "seconds_left": 20.0, "seconds_whole": 30.0}
    facts = pace.write_metrics(now=125.0)
    assert facts == {"rate": 1.0, "seconds_left": 20 + 2 * 20, "seconds_whole": 30 + 3 * 20}
    facts = pace.report(15, 30, now=130.0)
    assert (facts["rate"], eta_seconds(facts)) == (1.0, 15 + 2 * 20)
    assert share_of_time(facts) == pytest.approx(35 / 90)
    facts = pace.report(20, 30, now=135.0)
    assert eta_seconds(facts) == 10 + 2 * 20  # the second one is to come
    pace.write_metrics(now=155.0)
    facts = pace.report(30, 30, now=165.0)
    assert eta_seconds(facts) == 20.0  # the last one
    assert pace.write_metrics(now=165.0) == {}  # a classifier is evaluated after these
    assert pace.report(30, 30, now=165.0)["rate"] == 1.0


def test_metrics_without_an_evaluation_are_no_news() -> None:
    pace = Pace((20,))
    assert pace.write_metrics(now=0.0) == {}  # of an attempt that goes on
    pace.report(5, 20, now=10.0)
    pace.report(10, 20, now=15.0)
    assert pace.write_metrics(now=16.0) == {}


def test_before_the_first_evaluation_its_work_counts() -> None:
    """An image is trained with three passes and tested with one: the last test is a ninth."""
    size = size_of(RUN.dataset)
    assert size
    pace = Pace.of(RUN)  # 3 epochs of 1,000 images in batches of 100; tested on as many
    assert pace.evaluations == (30,)
    assert pace.steps_per_evaluation == pytest.approx(30 / 9)
    pace.report(10, 30, now=0.0)
    facts = pace.report(20, 30, now=10.0)
    assert eta_seconds(facts) == pytest.approx(10 + 30 / 9)


def test_the_steps_of_a_classifier_s_evaluations() -> None:
    recipe = replace(RUN.recipe, epochs=5, batch_size=300, evaluate_every_epochs=2)
    run = replace(RUN, recipe=recipe)
    assert run.evaluation_steps == (7, 14, 16)  # 2,000, 4,000 and 4,800 images
    assert replace(run, test_split="none").evaluation_steps == ()
    assert replace(run, dataset="unknown").evaluation_steps == ()
    released = replace(run, pretrained="timm:any", recipe=replace(recipe, epochs=0))
    assert released.evaluation_steps == ()
