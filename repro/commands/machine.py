"""Commands about this machine and clusters: preparation, checks and a testbed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from repro import paper
from repro.commands.parsing import argument, arguments, option, switch
from repro.commands.selection import absence_of
from repro.commands.shared import WithData, WithResults
from repro.commands.usage import UsageError
from repro.commands.values import data_folder, number, path_of
from repro.core import output, terminal
from repro.data import catalogue


@dataclass(frozen=True, kw_only=True)
class Prepare(WithData):
    """fetch and check a dataset, or Inception's weights, or say which file to put where

    Fetch and check a dataset, or say which file to put where.
    """

    dataset: str = argument(f"a dataset, such as {catalogue.NAMES[0]}, or 'inception'")

    def execute(self) -> int:
        from repro.launch import data

        for line in data.prepare(self.dataset, self.data or data_folder()):
            print(output.line(line))
        return 0


@dataclass(frozen=True, kw_only=True)
class Doctor(WithData, WithResults):
    """check this machine, or with --cluster a SLURM cluster

    Check this machine: packages, device, disk space, datasets.
    """

    cluster: Path | None = option("check a SLURM cluster; a first file is written", read=path_of,
                                  metavar="FILE")  # fmt: skip

    def execute(self) -> int:
        if self.cluster:
            from repro.launch.doctor import probe

            if self.data:
                raise UsageError("--data is for checking this machine; remove it or --cluster")
            return report(probe.examine(self.cluster, self.results.absolute()))
        from repro.launch.doctor import machine

        return report(machine.examine(self.data or data_folder(), self.results))


@dataclass(frozen=True, kw_only=True)
class Clean(WithResults):
    """list what a results folder no longer needs, and with --yes remove it

    List what is no longer needed, with its size: checkpoints of finished and cancelled runs, files
    of killed processes, finished submissions. With --yes it is removed. Results, logs and weights
    stay.
    """

    yes: bool = switch("remove it")

    def execute(self) -> int:
        from repro.launch import cleanup

        if line := absence_of(self.results):
            raise UsageError(line)
        leftovers = cleanup.find(self.results)
        if leftovers:
            rows = [(f"{each.bytes / 1e6:,.1f} MB", str(each.path), each.why) for each in leftovers]
            terminal.show(terminal.Table(("size", "place", "why"), rows, numbers=(0,)))
        total = (
            f"{sum(each.bytes for each in leftovers) / 1e9:,.2f} GB in {len(leftovers):,} places"
        )
        if self.yes:
            cleanup.remove(leftovers)
            print(f"removed {total}")
        else:
            print(f"{total}; --yes removes them" if leftovers else "nothing to remove")
        return 0


def report(lines: Iterable[tuple[str, str]]) -> int:
    """Print each line as soon as it is known; the exit status, 2 if something is missing."""
    complete = True
    for mark, line in lines:
        print(f"{mark:4} {output.line(line)}", flush=True)
        complete = complete and mark != "MISS"
    return 0 if complete else 2


@dataclass(frozen=True, kw_only=True)
class Testbed:
    """run a command on a local SLURM test cluster: repro testbed -- COMMAND

    Start SLURM's daemons on this machine, as nodes of a cluster, run COMMAND, and stop them.
    """

    command: tuple[str, ...] = arguments("a command with its arguments, after `--`",
                                         metavar="COMMAND", is_after_dashes=True)  # fmt: skip
    nodes: int = option("default: 2", read=number("--nodes", 64), default=2, metavar="N")
    gpus: int = option("simulated GPUs per node (default: 4)",
                       read=number("--gpus", 64, least=0), default=4, metavar="N")  # fmt: skip
    cpus: int | None = option("of each node (default: the machine's, divided)",
                              read=number("--cpus", 1024), metavar="N")  # fmt: skip

    def execute(self) -> int:
        if not self.command:
            item = paper.current().names()[0]
            example = f"repro testbed -- repro {item} --scale smoke --launch slurm"
            raise UsageError(f"testbed needs a command: {example}")

        from repro.launch.slurm import cluster
        from repro.testbed import cluster as testbed

        bed = testbed.Testbed(nodes=self.nodes, gpus=self.gpus, cpus=self.cpus)
        site = cluster.Cluster(
            resources=(cluster.Resources(gpus=min(1, self.gpus), cpus=1, time="12h"),),
            silence_seconds=20,
        )
        with bed:
            file = bed.root / "site.yaml"
            file.write_text(cluster.dump(site))
            os.environ["REPRO_CLUSTER"] = str(file)
            own = Path(sys.executable).parent  # so that COMMAND finds this `repro`
            os.environ["PATH"] = f"{own}:{os.environ.get('PATH', os.defpath)}"
            return testbed.run(list(self.command), bed)
