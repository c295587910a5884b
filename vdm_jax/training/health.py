"""When a run is no longer well: losses that are not finite, spikes, unreadable records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from ml_collections import ConfigDict

from vdm_jax.data import forgiven
from vdm_jax.errors import UserError
from vdm_jax.training.step import Report

# From the same checkpoint: other data did not help so many times.
MOST_ROLLBACKS = 3


class Verdict(NamedTuple):
    """bad: the steps up to `step` must not be built on, for this reason. halt: a process has to stop."""

    bad: bool
    halt: bool
    step: int = 0
    reason: str = ""


class Health:
    """Judges the reports of the steps by the config's training.bad_steps, spike and on_bad."""

    def __init__(self, config: ConfigDict, examples: int = 0):
        self._config, self._examples = config, examples
        self._rollbacks: Counter[int] = Counter()
        self._records = self._replaced = 0.0

    def judge(self, reports: Sequence[Report | None]) -> Verdict:
        """Waits for the steps of these reports."""
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
        last = int(report.step)
        if bool(report.jumped):
            factor = self._config.training.spike
            return f"the loss was more than config.training.spike={factor:g} times its running mean at step {last}"
        those = f"step {last}" if bad == 1 else f"step {last - bad + 1} and the {bad - 1} after it"
        return f"the loss or its gradient was NaN or infinite at {those}"

    def remember(self, step: int, times: int) -> None:
        """How often an earlier process went back to a checkpoint."""
        self._rollbacks[step] = times

    def times(self, step: int) -> int:
        """How often the run went back to a checkpoint."""
        return self._rollbacks[step]

    def may_go_back_to(self, step: int) -> bool:
        """Whether the config wants that, and it was not tried too often."""
        self._rollbacks[step] += 1
        return self._config.training.on_bad == "rollback" and self._rollbacks[step] <= MOST_ROLLBACKS

    def last_words(self, verdict: Verdict, newest: int | None) -> str:
        """Why the run stops, and what is left of it."""
        kept = "no checkpoint was made yet" if newest is None else f"the checkpoint of step {newest} is kept"
        again = f", after {MOST_ROLLBACKS} returns to it" if self._rollbacks[newest or 0] > MOST_ROLLBACKS else ""
        return (
            f"{verdict.reason}; {kept}{again}; "
            "try a lower config.optimizer.learning_rate or a smaller config.optimizer.clip in a new --workdir"
        )

    def count_records(self, replaced: float, steps: int) -> None:
        """UserError if more of the records so far than data.max_undecodable had to be replaced; a few are forgiven.

        Those few, `data.forgiven`, come again every epoch; one is forgiven where the size of the data is not known.
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
