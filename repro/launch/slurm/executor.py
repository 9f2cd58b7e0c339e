"""submitit's executor as a writer of sbatch scripts, for `--dry-run` and for submitting."""

from __future__ import annotations

from submitit import SlurmExecutor


class ScriptExecutor(SlurmExecutor):
    """Gives the script that `submit` and `map_array` would hand to sbatch, and writes nothing.

    No public method of submitit 1.5 returns a script. `submit`, `map_array` and `batch`, of
    `SlurmExecutor` as of `AutoExecutor`, write pickles and the script into their folder and call
    sbatch at once; `LocalExecutor` and `DebugExecutor` run the function here, without a script.
    With a false sbatch in PATH, `submit` would still write, and the script would name the folder
    that it wrote to. So `script` calls the protected `_make_submission_file_text`, which
    `PicklingExecutor` declares abstract for its subclasses. A test compares the result with what
    the public methods write.

    sbatch is called elsewhere (`repro.launch.slurm.arrays`), which finds a job even where sbatch
    does not say its number.
    """

    @classmethod
    def affinity(cls) -> int:
        """Available everywhere: a script needs no SLURM."""
        return 1

    def script(self, count: int) -> str:
        """The sbatch script of `count` elements, an array if they are several."""
        if count > 1:
            self.parameters["map_count"] = count
        return str(self._make_submission_file_text(self._submitit_command_str, uid=""))
