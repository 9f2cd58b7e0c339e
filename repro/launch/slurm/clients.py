"""Run SLURM's clients, always in a controlled environment.

Clients take options from variables that a profile, a module or a surrounding job exported: with
SQUEUE_PARTITION=debug, squeue lists the jobs of one partition only. This module decides which
variables a client gets: of SLURM's own, only those that locate the cluster.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Collection, Mapping

PRESERVED = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT")  # locate the cluster
# Prefixes of variables that set options of clients, and of those that describe a job.
_OPTIONS = ("SRUN_", "SBATCH_", "SALLOC_", "SQUEUE_", "SCANCEL_", "SCONTROL_", "SINFO_", "SACCT_")
_JOB = ("SLURM_", "SLURMD_", "_SLURM_")


def environment(preserved: Collection[str] = PRESERVED) -> dict[str, str]:
    """Our environment without SLURM's variables, except those in `preserved`."""
    ours = os.environ.items()
    return {
        name: v for name, v in ours if name in preserved or not name.startswith(_OPTIONS + _JOB)
    }


def run(
    *command: str, seconds: float, variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a client; its output and exit status. `variables` replace `environment()`.

    Raises OSError if it cannot be run, TimeoutExpired after `seconds`.
    """
    process = subprocess.Popen(
        command,
        env=environment() if variables is None else variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",  # a site's banner may use any encoding
    )
    with process:
        try:
            out, err = process.communicate(timeout=seconds)
        except BaseException:  # after Ctrl-C subprocess.run would leave a zombie
            process.kill()
            process.wait()
            raise
    return subprocess.CompletedProcess(command, process.returncode, out, err)


_OPTION_VARIABLES = " ".join(f'"${{!{prefix}@}}"' for prefix in _OPTIONS + _JOB)

# Lines of bash. The job's own variables are those present at the start of its script. Those that
# the site's lines export later, such as SLURM_CONSTRAINT, would set options of srun.
IN_SCRIPT = (
    "repro_keep() {  # unset SLURM's variables except those named in $1",
    f"  for repro_name in {_OPTION_VARIABLES}; do",
    '    case " $1 " in *" $repro_name "*) ;; *) unset -v "$repro_name" ;; esac',
    "  done",
    "}",
    f'repro_client() (repro_keep "{" ".join(PRESERVED)}"; exec "$@")',
    f'repro_own="{" ".join(PRESERVED)} ${{!SLURM_*}} ${{!SLURMD_*}} ${{!_SLURM_*}}"',
)
BEFORE_SRUN = 'repro_keep "$repro_own"'
