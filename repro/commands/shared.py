"""Options shared by several commands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from repro.commands.parsing import arguments, option
from repro.commands.values import folder_of, number, results_folder
from repro.spec import SCALES, Scale

MAX_SEEDS = 100


@dataclass(frozen=True, kw_only=True)
class WithResults:
    """A command that reads or writes results."""

    results: Path = option("results (REPRO_RESULTS; default: results)", read=folder_of,
                           metavar="DIR", resolve=results_folder)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class WithData:
    """A command that reads or writes datasets; `values.data_folder` is the default."""

    data: Path | None = option("datasets (REPRO_DATA; default: data)", read=folder_of,
                               metavar="DIR")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class WithItems:
    """A command about items of the paper."""

    items: tuple[str, ...] = arguments("items of the paper; `all`: all of them", metavar="ITEM")


@dataclass(frozen=True, kw_only=True)
class WithSeeds:
    seeds: int | None = option(
        "default: 3 to train, 1 at demo and smoke scale; to show or render, all that exist",
        read=number("--seeds", MAX_SEEDS), metavar="N",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Selection(WithResults, WithSeeds):
    """A command about runs of every scale, or of one."""

    scale: Scale | None = option("default: all", choices=SCALES)


@dataclass(frozen=True, kw_only=True)
class WithRows(WithResults, WithSeeds, WithItems):
    """A command about the runs that items need at one scale."""

    scale: Scale = option("default: paper", default="paper", choices=SCALES)
    images: str = option(
        "256px: ImageNet from 256-px crops, which `repro prepare imagenet-256px` makes once; "
        "faster to read, but other random crops, so these are separate runs",
        default="original", choices=("original", "256px"),
    )  # fmt: skip
