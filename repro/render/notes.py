"""The notes below a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pandas as pd

from repro.core import records
from repro.core.claims import judge_claims
from repro.core.measures import ACCURACIES, measure
from repro.core.numbers import rounded
from repro.core.scales import home, runs_at_scale, title
from repro.core.verdict import rank_correlation
from repro.paper import current
from repro.render import agreement, claims, released_weights
from repro.render.claims import Note
from repro.render.text import column, headers
from repro.results import Reference
from repro.spec import VERDICT_SCALES, Experiment, Scale, dataset_of

MARK = "‡"  # on rows whose recipe has values that the paper leaves open

_SAME_MODELS = (
    "The same models on one CPU core in fp32. The speeds are not comparable with the paper's"
)


def notes(experiment: Experiment, frame: pd.DataFrame, scale: Scale) -> list[Note]:
    """The paragraphs below a table, in their order."""
    paragraphs = of_table(experiment, frame, scale)
    if scale in VERDICT_SCALES:
        paragraphs += claims.notes(judge_claims(experiment, frame, scale), scale)
    if scale != "smoke":
        of_scale = "" if scale == home(experiment) else f" at {home(experiment)} scale"
        title = f"Decisions{of_scale} where the paper is silent:"
        paragraphs += _list_note(title, _decisions(experiment))
    return paragraphs


def of_table(experiment: Experiment, frame: pd.DataFrame, scale: Scale) -> list[Note]:
    """How to read a table and what its numbers depend on, without claims and decisions."""
    of_scale = scale_note(experiment, frame, scale)
    texts = [_measure(frame), experiment.caption if scale == home(experiment) else of_scale]
    texts.append(data_note(experiment, scale, _comparable_columns(experiment, frame, scale)))
    texts += _mixed_devices(frame) + _sites(frame)
    if scale in VERDICT_SCALES:
        texts += _rank_correlations(experiment, frame, scale)
    if frame["paper_starred"].any():
        texts.append(f"* {experiment.starred}")
    if scale == "paper" and (frame["choices"] != "").any():
        open_values = sorted({name for names in frame["choices"] for name in names.split()})
        texts.append(
            f"{MARK} Our choices for values that the paper does not state: "
            f"{', '.join(open_values)}. "
            f"`repro why --decisions {experiment.name}` lists sources and alternatives."
        )
    paragraphs: list[Note] = [(text, ()) for text in texts if text]
    paragraphs += _list_note("Reference images of the distances:", _references(frame))
    if scale == "paper":
        paragraphs += _list_note(
            released_weights.HEADING, released_weights.lines(experiment, frame)
        )
        paragraphs += _list_note("Sources of published numbers:", _cited(experiment))
        paragraphs += _list_note(agreement.HEADING, agreement.lines(frame))
    return paragraphs


def _list_note(text: str, items: Sequence[str]) -> list[Note]:
    """A paragraph with a list, if there is anything to list."""
    return [(text, items)] if items else []


def _measure(frame: pd.DataFrame) -> str:
    """'Top-1 accuracy in percent: mean ± standard deviation (number of seeds). Bold: best.'"""
    metrics = list(frame["metric"].unique())
    text = _capital("; ".join(dict.fromkeys(measure(metric).name for metric in metrics)))
    if frame["is_stochastic"].any():
        text += ": mean ± standard deviation (number of seeds)"
    orders = {measure(metric).best for metric in metrics}
    if frame["low"].notna().any():
        text += ". Brackets: 95 % bootstrap interval over images, averaged over seeds"
    if orders == {""}:
        return f"{text}."
    if orders == {"least"}:
        return f"{text}. Bold: lowest (best)."
    what, ranked = "best", {metric for metric in metrics if measure(metric).best}
    if "" in orders and ranked <= set(ACCURACIES):
        what = "best accuracy"
    elif orders == {"", "least"}:
        what = "lowest distance"
    return f"{text}. Bold: {what}."


def scale_note(experiment: Experiment, frame: pd.DataFrame, scale: Scale) -> str:
    """How to read the numbers of a small scale."""
    text = current().scale_notes()[scale]
    if scale not in ("proxy", "demo"):
        return text
    if scale == "proxy" and experiment.at_proxy:
        return experiment.at_proxy
    about = _SAME_MODELS if _has_same_models(experiment, scale) else text
    beside = " (shown for the order of methods only)" if frame["paper"].notna().any() else ""
    return f"{about}{beside}."


def _has_same_models(experiment: Experiment, scale: Scale) -> bool:
    """Whether the models at this scale are those of the paper."""
    pairs = [(here.as_profile, cell.run.as_profile)
             for cell, here in runs_at_scale(experiment.cells, scale)]  # fmt: skip
    return all(here and paper and here.model == paper.model for here, paper in pairs)


def data_note(experiment: Experiment, scale: Scale, shown: str) -> str:
    """The substitutes of datasets, without those already named in the text `shown`."""
    stand_in = dict.fromkeys(
        (title(dataset_of(here)), title(dataset_of(cell.run)))
        for cell, here in runs_at_scale(experiment.cells, scale)
        if dataset_of(cell.run)
    )
    substitutes = [
        f"{here} for {paper}" for here, paper in stand_in if here != paper and here not in shown
    ]
    return f"Data: {', '.join(substitutes)}." if substitutes and scale != "paper" else ""


def _comparable_columns(experiment: Experiment, frame: pd.DataFrame, scale: Scale) -> str:
    """The names of our columns that have a number of the paper."""
    names = headers(experiment, frame, scale).items()
    return " ".join(here for key, (_, here) in names if column(frame, key)["paper"].notna().any())


def _rank_correlations(experiment: Experiment, frame: pd.DataFrame, scale: Scale) -> list[str]:
    """Rank correlation with the paper, for columns with enough methods."""
    texts = []
    for key, (paper, here) in headers(experiment, frame, scale).items():
        cells = column(frame, key).dropna(subset=["mean", "paper"])
        cells = cells[cells["metric"].isin(ACCURACIES)]
        correlation = rank_correlation(list(cells["paper"]), list(cells["mean"]))
        if correlation is not None:
            numbers = (correlation.rho, *correlation.interval)
            rho, *ends = (rounded(value, 2, "+z") for value in numbers)
            name = paper if paper == here else f"{paper} and {here}"
            texts.append(
                f"Order of the {len(cells)} methods, {name}: Spearman's rank correlation with the "
                f"paper {rho}, 95 % interval {ends[0]} to {ends[1]}."
            )
    return texts


def _mixed_devices(frame: pd.DataFrame) -> list[str]:
    """'Runs differ in precision: 12 bf16 autocast, 3 fp32.' The same for devices; [] if equal.

    Device names are without the number of threads.
    """
    runs = {each.run: each for of_cell in frame["runs"] for each in of_cell}.values()
    devices = Counter(each.device.partition(", ")[0] for each in runs if each.device)
    precisions = Counter(each.precision for each in runs if each.precision)
    return [
        f"Runs differ in {what}: {', '.join(f'{n:,} {name}' for name, n in counts.most_common())}."
        for what, counts in (("device", devices), ("precision", precisions))
        if len(counts) > 1
    ]


def _sites(frame: pd.DataFrame) -> list[str]:
    """'Runs from 2 sites: 12 computed here, 3 at X.' [] if none is imported."""
    runs = {each.run: each.site for of_cell in frame["runs"] for each in of_cell}
    counts = Counter(runs.values())
    if not any(counts):
        return []
    here = counts.pop("", 0)
    parts = [f"{here:,} computed here"] * (here > 0)
    parts += [f"{number:,} at {site}" for site, number in sorted(counts.items())]
    return [f"Runs from {len(parts)} site{'s' * (len(parts) > 1)}: {', '.join(parts)}."]


def _references(frame: pd.DataFrame) -> list[str]:
    """The reference images and the feature extractors of distances, with their digests."""
    references = dict.fromkeys(text for texts in frame["references"] for text in texts)
    return [_reference(records.decode(text.encode(), Reference)) for text in references]


def _reference(about: Reference) -> str:
    """'Fashion-MNIST-6k, train: 6,000 images of 32 px (pixels 7e6b...); features: ... (...).'"""
    preprocessing = f", {about['preprocessing']}" if "preprocessing" in about else ""
    return (
        f"{title(about['dataset'])}, {about['split']}: {about['images']:,} images of "
        f"{about['image_size']} px{preprocessing} (pixels {about['fingerprint']}); features of "
        f"{about['extractor']} (weights {about['digest'][:16]})."
    )


def _cited(experiment: Experiment) -> list[str]:
    """A line for each source, with its numbers."""
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
