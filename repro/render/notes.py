"""What a reader must know to read the numbers of a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pandas as pd

from repro import records
from repro.experiments.scales import asked, title
from repro.measures import ACCURACIES, measure
from repro.render import claims, released
from repro.render.text import column, headers, rounded
from repro.results import Reference
from repro.spec import Experiment, Profiling, Scale, dataset_of
from repro.verdict import rank_correlation

MARK = "‡"  # on rows whose recipe holds values that the paper leaves open

_SCALES: dict[Scale, str] = {
    "paper": "",
    "proxy": (
        "Proxy scale: small versions of the same methods, alike in size, on embedded images, with "
        "token maps of half the side and one recipe for all. The numbers are not comparable "
        "with the paper's"
    ),
    "smoke": (
        "Smoke scale: a few steps on a few images, to show that everything runs. "
        "The numbers mean nothing."
    ),
}

_MEASURED = (
    "Proxy scale: the same models, on one core of a CPU and in fp32. The speeds are not comparable "
    "with the paper's"
)

Note = tuple[str, Sequence[str]]  # a paragraph, and the items of a list below it


def notes(experiment: Experiment, frame: pd.DataFrame, scale: Scale) -> list[Note]:
    """The paragraphs below a table, in their order."""
    about = experiment.caption if scale == "paper" else scale_note(experiment, frame, scale)
    texts = [_measure(frame), about]
    texts.append(data_note(experiment, scale, _beside(experiment, frame, scale)))
    texts += _computed(frame)
    if scale != "smoke":
        texts += _order(experiment, frame, scale)
    if frame["paper_starred"].any():
        texts.append(f"* {experiment.starred}")
    if scale == "paper" and (frame["choices"] != "").any():
        open_values = sorted({name for names in frame["choices"] for name in names.split()})
        texts.append(
            f"{MARK} The paper leaves open, and we chose: {', '.join(open_values)}. "
            f"`repro why --decisions {experiment.name}` tells from where, and instead of what."
        )
    lists: list[Note] = [("Generated images are compared with:", _references(frame))]
    if scale == "paper":
        lists.append((released.HEADING, released.told(experiment, frame)))
        lists.append(("Published, where and how:", _cited(experiment)))
    if scale != "smoke":
        lists.append((claims.TEST, claims.told(experiment, frame, scale)))
        lists.append(("Decisions where the paper is silent.", _decisions(experiment)))
    return [(text, ()) for text in texts if text] + [note for note in lists if note[1]]


def _measure(frame: pd.DataFrame) -> str:
    """'Top-1 accuracy in percent: mean ± standard deviation (number of seeds). Best in bold.'"""
    metrics = list(frame["metric"].unique())
    text = "; ".join(dict.fromkeys(measure(metric).name for metric in metrics))
    text = _capital(text)
    if frame["drawn"].any():
        text += ": mean ± standard deviation (number of seeds)"
    orders = {measure(metric).best for metric in metrics}
    if frame["low"].notna().any():
        text += "; in brackets a 95 % bootstrap interval over images, its ends averaged over seeds"
    if orders == {""}:
        return f"{text}."
    if orders == {"least"}:
        return f"{text}. Least, which is best, in bold."
    what = "Best"
    if "" in orders and set(metrics) & set(ACCURACIES):
        what = "Best accuracy"
    elif orders == {"", "least"}:
        what = "Least distance"
    return f"{text}. {what} in bold."


def scale_note(experiment: Experiment, frame: pd.DataFrame, scale: Scale) -> str:
    """What the numbers of a small scale are, and are not."""
    if scale != "proxy":
        return _SCALES[scale]
    about = _MEASURED if _is_measured_only(experiment) else _SCALES[scale]
    beside = ", which stand beside them for their order" if frame["paper"].notna().any() else ""
    return f"{about}{beside}."


def _is_measured_only(experiment: Experiment) -> bool:
    """Whether at proxy scale, too, the models are the paper's."""
    return all(
        isinstance(here, Profiling)
        and isinstance(cell.run, Profiling)
        and here.model == cell.run.model
        for cell, here in asked(experiment.cells, "proxy")
    )


def data_note(experiment: Experiment, scale: Scale, shown: str) -> str:
    """Which data stand in for which, but those that are in what is `shown` elsewhere."""
    stand_in = dict.fromkeys(
        (title(dataset_of(here)), title(dataset_of(cell.run)))
        for cell, here in asked(experiment.cells, scale)
        if dataset_of(cell.run)
    )
    told = [f"{here} for {paper}" for here, paper in stand_in if here not in shown]
    return f"Data: {', '.join(told)}." if told and scale != "paper" else ""


def _beside(experiment: Experiment, frame: pd.DataFrame, scale: Scale) -> str:
    """The names of the columns here that stand beside the paper's."""
    names = headers(experiment, frame, scale).items()
    return " ".join(here for key, (_, here) in names if column(frame, key)["paper"].notna().any())


def _order(experiment: Experiment, frame: pd.DataFrame, scale: Scale) -> list[str]:
    """How far the methods come out in the paper's order, once there are enough of them."""
    texts = []
    for key, (paper, here) in headers(experiment, frame, scale).items():
        known = column(frame, key).dropna(subset=["mean", "paper"])
        known = known[known["metric"].isin(ACCURACIES)]
        rho = rank_correlation(list(known["paper"]), list(known["mean"]))
        if rho is not None:
            name = paper if paper == here else f"{paper} and {here}"
            texts.append(
                f"Order of the {len(known)} methods, {name}: Spearman's rank correlation between "
                f"the paper and here is {rounded(rho, 2, '+z')}."
            )
    return texts


def _computed(frame: pd.DataFrame) -> list[str]:
    """'Runs differ in precision: 12 bf16 autocast, 3 fp32.' Of devices as well; none if alike.

    Devices without their threads.
    """
    runs = {run: how for of_cell in frame["computed"] for run, *how in of_cell}
    devices = Counter(device.partition(", ")[0] for device, _ in runs.values() if device)
    precisions = Counter(precision for _, precision in runs.values() if precision)
    return [
        f"Runs differ in {what}: {', '.join(f'{n:,} {name}' for name, n in counts.most_common())}."
        for what, counts in (("device", devices), ("precision", precisions))
        if len(counts) > 1
    ]


def _references(frame: pd.DataFrame) -> list[str]:
    """What generated images were compared with, by what: data, count, and digests of both."""
    found = dict.fromkeys(text for texts in frame["references"] for text in texts)
    return [_reference(records.decode(text.encode(), Reference)) for text in found]


def _reference(about: Reference) -> str:
    """'Fashion-MNIST-6k, train: 6,000 images of 32 px (pixels 7e6b...); features: ... (...).'"""
    made = f", {about['preprocessing']}" if "preprocessing" in about else ""
    return (
        f"{title(about['dataset'])}, {about['split']}: {about['images']:,} images of "
        f"{about['image_size']} px{made} (pixels {about['fingerprint']}); features of "
        f"{about['extractor']} (weights {about['digest'][:16]})."
    )


def _cited(experiment: Experiment) -> list[str]:
    """A line for each source, with the numbers that are from there."""
    by_source: dict[str, list[str]] = {}
    for cited in experiment.cited:
        by_source.setdefault(cited.source, []).append(f"{cited.row} {cited.value:g}")
    return [f"{', '.join(rows)}: {source}." for source, rows in by_source.items()]


def _decisions(experiment: Experiment) -> list[str]:
    return [
        f"{_capital(d.question)}: {d.chosen} (instead of {d.instead}). Reason: {d.why}."
        for d in experiment.decisions
    ]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
