"""The notebook is committed as it ran: every cell executed in order, none failed, and its code still runs."""

from __future__ import annotations

import pathlib
from typing import Any

import matplotlib
import nbformat
import pytest
from etils import epath

from vdm_jax.config import load
from vdm_jax.training.loop import train

NOTEBOOK = pathlib.Path(__file__).parents[2] / "experiments" / "vdm" / "vdm_walkthrough.ipynb"


def code_cells() -> list[Any]:
    return [cell for cell in nbformat.read(NOTEBOOK, 4).cells if cell.cell_type == "code"]


def test_every_cell_was_executed_in_order_without_an_error() -> None:
    cells = code_cells()
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 8


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_code_runs_on_a_small_model(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load("configs/digits.py:smoke")
    train(config, epath.Path(tmp_path / "workdirs" / "notebook_digits"), finish=False)
    monkeypatch.chdir(tmp_path)
    matplotlib.use("agg")
    namespace: dict[str, Any] = {}
    for cell in code_cells():
        exec(compile(cell.source, str(NOTEBOOK), "exec"), namespace)
    assert namespace["totals"][10].mean() > namespace["totals"][0].mean()
