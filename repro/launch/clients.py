"""Running SLURM's clients, always in an environment of ours.

A client takes options from variables that a profile, a module or a surrounding job has exported:
under SQUEUE_PARTITION=debug, squeue lists the jobs of one partition. Here is decided which
variables a client gets: of SLURM's own, only those that lead to the cluster.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Collection, Mapping

KEPT = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT")  # lead to the cluster
# Prefixes of the variables that are options of clients, and of those that describe a job as well.
_OPTIONS = ("SRUN_", "SBATCH_", "SALLOC_", "SQUEUE_", "SCANCEL_", "SCONTROL_", "SINFO_", "SACCT_")
_JOB = ("SLURM_", "SLURMD_", "_SLURM_")


def environment(kept: Collection[str] = KEPT) -> dict[str, str]:
    """Our environment, without SLURM's variables but for those `kept`."""
    ours = os.environ.items()
    return {name: v for name, v in ours if name in kept or not name.startswith(_OPTIONS + _JOB)}


def run(
    *command: str, seconds: float, variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """What a client prints, and its exit status; `variables` replace `environment()`.

    Raises OSError if it cannot be run, TimeoutExpired if it takes longer than `seconds`.
    """
    process = subprocess.Popen(
        command,
        env=environment() if variables is None else variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",  # a site's banner may be in any encoding
    )
    with process:
        try:
            out, err = process.communicate(timeout=seconds)
        except BaseException:  # subprocess.run would leave it unreaped after Ctrl-C
            process.kill()
            process.wait()
            raise
    return subprocess.CompletedProcess(command, process.returncode, out, err)


_LISTED = " ".join(f'"${{!{prefix}@}}"' for prefix in _OPTIONS + _JOB)

# Lines of bash. A job's own variables are those with which its script begins; what the site's
# lines export later, such as SLURM_CONSTRAINT, would be options of srun.
IN_SCRIPT = (
    "repro_keep() {  # unset SLURM's variables, but for those whose names are in $1",
    f"  for repro_name in {_LISTED}; do",
    '    case " $1 " in *" $repro_name "*) ;; *) unset -v "$repro_name" ;; esac',
    "  done",
    "}",
    f'repro_client() (repro_keep "{" ".join(KEPT)}"; exec "$@")',
    f'repro_own="{" ".join(KEPT)} ${{!SLURM_*}} ${{!SLURMD_*}} ${{!_SLURM_*}}"',
)
BEFORE_SRUN = 'repro_keep "$repro_own"'
