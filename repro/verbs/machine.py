"""Verbs about this machine and clusters: what is there, and does it work."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from repro import output
from repro.options import (
    UsageError,
    add_data,
    add_results,
    data_folder,
    number,
    parse,
    parser_of,
    path_of,
)


def prepare(words: Sequence[str]) -> int:
    """fetch and check a dataset, or Inception's weights, or say which file to put where"""
    parser = parser_of(
        "prepare DATASET", "Fetch and check a dataset, or say which file to put where."
    )
    parser.add_argument("dataset", help="a dataset, such as cifar10, or 'inception'")
    add_data(parser)
    given = parse(parser, words)

    from repro.launch import data

    for line in data.prepare(given.dataset, given.data or data_folder()):
        print(output.line(line))
    return 0


def doctor(words: Sequence[str]) -> int:
    """check this machine, or with --cluster a SLURM cluster: what is there, and does it work"""
    parser = parser_of("doctor", "Check this machine: packages, device, folders, datasets.")
    parser.add_argument("--cluster", type=path_of, metavar="FILE",
                        help="check a SLURM cluster; a first file is written")  # fmt: skip
    add_data(parser)
    add_results(parser)
    given = parse(parser, words)
    if given.cluster:
        from repro.launch import probe

        if given.data:
            raise UsageError("--data is for checking this machine; take it or --cluster out")

        found = probe.examine(given.cluster, given.results.absolute())
    else:
        from repro.launch import data

        found = data.examine(given.data or data_folder(), given.results)
    return report(found)


def report(found: Iterable[tuple[str, str]]) -> int:
    """Print each line as soon as it is known; the status, 2 if something is missing."""
    well = True
    for mark, line in found:
        print(f"{mark:4} {output.line(line)}", flush=True)
        well = well and mark != "MISS"
    return 0 if well else 2


def testbed(words: Sequence[str]) -> int:
    """run a command with a real SLURM cluster of this machine: repro testbed -- COMMAND"""
    split = words.index("--") if "--" in words else len(words)
    about = "Start SLURM's daemons here, as nodes of one cluster, for the length of COMMAND."
    parser = parser_of("testbed [--nodes N] [--gpus N] [--cpus N] -- COMMAND...", about)
    parser.add_argument(
        "--nodes", type=number("--nodes", 64), default=2, metavar="N", help="default: 2"
    )
    parser.add_argument("--gpus", type=number("--gpus", 64, least=0), default=4, metavar="N",
                        help="pretended GPUs of each node (default: 4)")  # fmt: skip
    parser.add_argument("--cpus", type=number("--cpus", 1024), metavar="N",
                        help="of each node (default: the machine's, divided)")  # fmt: skip
    given = parse(parser, words[:split])
    command = list(words[split + 1 :])
    if not command:
        raise UsageError(
            "testbed needs a command: repro testbed -- repro table1 --scale smoke --launch slurm"
        )

    from repro.launch import cluster
    from repro.launch.testbed import Testbed, run

    bed = Testbed(nodes=given.nodes, gpus=given.gpus, cpus=given.cpus)
    site = cluster.Cluster(
        resources=(cluster.Resources(gpus=min(1, given.gpus), cpus=1, time="12h"),),
        silence_seconds=20,
    )
    with bed:
        file = bed.root / "site.yaml"
        file.write_text(cluster.dump(site))
        os.environ["REPRO_CLUSTER"] = str(file)
        own = Path(sys.executable).parent  # so that COMMAND finds this `repro`
        os.environ["PATH"] = f"{own}:{os.environ.get('PATH', os.defpath)}"
        return run(command, bed)
