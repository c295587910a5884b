"""Divergence and data-health checks: non-finite losses, loss spikes and undecodable records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from ml_collections import ConfigDict

from vdm_jax.data import forgiven
from vdm_jax.errors import UserError
from vdm_jax.training.step import Report

# Rollbacks to the same checkpoint before the run stops: skipping data has not helped.
MOST_ROLLBACKS = 3


class Verdict(NamedTuple):
    """The result of a health check.

    Attributes:
      bad: the run diverged and must not continue from its current state.
      halt: a process has received SIGTERM.
      step: the last of the bad steps.
      reason: why the run is bad, as the first clause of an error message.
    """

    bad: bool
    halt: bool
    step: int = 0
    reason: str = ""


class Health:
    """Checks step reports against `training.bad_steps`, `training.spike` and `training.on_bad`."""

    def __init__(self, config: ConfigDict, examples: int = 0):
        self._config, self._examples = config, examples
        self._rollbacks: Counter[int] = Counter()
        self._records = self._replaced = 0.0

    def verdict_on(self, reports: Sequence[Report | None]) -> Verdict:
        """Return the verdict on these reports; blocks until their steps have run."""
        halt = False
        for report in reports:
            if report is None:
                continue
            halt |= bool(report.halt)
            bad = int(report.bad)
            if bad >= self._config.training.bad_steps:
                return Verdict(True, halt, int(report.step), self._reason(report, bad))
        return Verdict(False, halt)

    def _reason(self, report: Report, bad: int) -> str:
        """Describe a bad report as the first clause of an error message."""
        last = int(report.step)
        if bool(report.jumped):
            factor = self._config.training.spike
            return f"the loss was more than config.training.spike={factor:g} times its running mean at step {last}"
        those = f"step {last}" if bad == 1 else f"step {last - bad + 1} and the {bad - 1} after it"
        return f"the loss or its gradient was NaN or infinite at {those}"

    def remember(self, step: int, times: int) -> None:
        """Set how many times an earlier process rolled back to the checkpoint of `step`."""
        self._rollbacks[step] = times

    def times(self, step: int) -> int:
        """Return how many times the run rolled back to the checkpoint of `step`."""
        return self._rollbacks[step]

    def may_go_back_to(self, step: int) -> bool:
        """Count a rollback to `step` and return whether the config and the limit on rollbacks allow it."""
        self._rollbacks[step] += 1
        return self._config.training.on_bad == "rollback" and self._rollbacks[step] <= MOST_ROLLBACKS

    def last_words(self, verdict: Verdict, newest: int | None) -> str:
        """Return the error message of a run that stops; newest: the step of its newest checkpoint."""
        kept = "no checkpoint was saved yet" if newest is None else f"the checkpoint of step {newest} is kept"
        again = f", after {MOST_ROLLBACKS} rollbacks to it" if self._rollbacks[newest or 0] > MOST_ROLLBACKS else ""
        return (
            f"{verdict.reason}; {kept}{again}; "
            "try a lower config.optimizer.learning_rate or a smaller config.optimizer.clip in a new --workdir"
        )

    def count_records(self, replaced: float, steps: int) -> None:
        """Add the records of the last `steps` steps to the count and check the share of undecodable ones.

        `data.forgiven(examples)` records per epoch are always allowed, or one if the size of the data set is unknown.

        Raises:
          UserError: more than the share `data.max_undecodable` of all records so far was replaced.
        """
        section = self._config.data
        self._records += steps * section.batch_size
        self._replaced += replaced
        share = section.max_undecodable
        few = forgiven(self._examples) * (1 + self._records / max(self._examples, 1))
        if self._replaced > (max(share * self._records + few, 1.0) if share else 0.0):
            raise UserError(
                f"{self._replaced:.0f} of {self._records:.0f} records could not be decoded, more than the share "
                f"config.data.max_undecodable={share:g}; repair the data or raise it"
            )
