"""The pace of one attempt at a run: steps per second, seconds per evaluation, seconds left.

Start-up is no part of it: the clock starts with the first report. An evaluation lasts from the
report of its step to the metrics that follow it; until the first one has been timed, the work of
the run tells how many steps it is worth.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

from repro.core.work import ModelWork
from repro.spec import Run

_BACKWARD_AND_FORWARD = 3  # passes of a training image, of which a test image takes one
_MAX_SECONDS = 1e11  # that a lease may have


@dataclass
class Pace:
    """Measured from the reports of a task, at times in seconds of any clock."""

    evaluations: Sequence[int] = ()  # the steps, in order, after which the run is evaluated
    steps_per_evaluation: float = 0.0  # our estimate, until one is timed
    _first: tuple[int, float] | None = None  # the first reported step, and its time
    _reported: tuple[int, int, float] | None = None  # the latest step, of how many, and its time
    _evaluating: list[float] = field(default_factory=list)  # the duration of each evaluation

    @classmethod
    def of(cls, run: Run) -> Pace:
        """The pace of a run that has made no step yet."""
        evaluations, work, training = run.evaluation_steps, run.work, run.training_steps
        if not (evaluations and training and isinstance(work, ModelWork) and work.images):
            return cls(evaluations)
        trained, tested = work.images
        share = tested / (_BACKWARD_AND_FORWARD * trained)  # of the time of all steps
        return cls(evaluations, share * training.count / len(evaluations))

    def report(self, step: int, steps: int, now: float) -> dict[str, float]:
        """The facts of a lease after `step` of `steps`, before the evaluation that may follow."""
        self._first = self._first or (step, now)
        self._reported = step, steps, now
        return self._facts(bisect_left(self.evaluations, step), now)

    def write_metrics(self, now: float) -> dict[str, float]:
        """The facts when the metrics of the reported step are known; {} if there is no news."""
        if not self._reported:
            return {}
        step, steps, began = self._reported
        place = bisect_left(self.evaluations, step)
        is_evaluation = self.evaluations[place : place + 1] == (step,)
        if not is_evaluation or step == steps:  # after the last step, a task may still evaluate
            return {}
        self._evaluating.append(now - began)
        return self._facts(bisect_right(self.evaluations, step), now)

    def _facts(self, evaluated: int, now: float) -> dict[str, float]:
        """The rate in steps per second, and the seconds of the rest and of the whole run.

        evaluated: the number of evaluations that are over. {} before the second report.
        """
        assert self._first
        assert self._reported
        (first, began), (step, steps, _) = self._first, self._reported
        seconds = now - began - sum(self._evaluating)
        if step <= first or seconds <= 0:
            return {}
        rate = (step - first) / seconds
        if self._evaluating:
            evaluation = sum(self._evaluating) / len(self._evaluating)
        else:
            evaluation = self.steps_per_evaluation / rate
        number = len(self.evaluations)
        left = (steps - step) / rate + (number - evaluated) * evaluation
        whole = steps / rate + number * evaluation
        return {
            "rate": rate,
            "seconds_left": min(left, _MAX_SECONDS),
            "seconds_whole": min(whole, _MAX_SECONDS),
        }
