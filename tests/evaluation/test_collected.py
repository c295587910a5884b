"""An evaluator of all examples together: what it is handed, and its entry in eval.json."""

from __future__ import annotations

import json
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from tests.training.runs import mesh_of
from vdm_jax import data, methods
from vdm_jax.config import base
from vdm_jax.core.method import Collected, Method
from vdm_jax.evaluation import report
from vdm_jax.evaluation.measure import collect

IMAGES, NEAREST = 20, 3


def outputs(params: Any, batch: Any, keys: Any) -> Any:
    """Two embeddings of an image: its rows and its columns, each summed."""
    x = batch["x"][..., 0].astype(jnp.float32)
    return {"left": x.sum(1) * params["scale"], "right": x.sum(2) * params["scale"], "first": batch["x"][:, 0, 0, 0]}


def summarize(values: dict[str, np.ndarray]) -> dict[str, Any]:
    """Recall@1 of one embedding among the other, which needs every pair of examples."""
    nearest = np.argmax(values["left"] @ values["right"].T, axis=1)
    return {"recall": float(np.mean(nearest == np.arange(len(nearest)))), "kind": values["first"].dtype.kind}


RETRIEVAL = Collected("retrieval", outputs, summarize, lambda result: f"recall {result['recall']:.3f}")


def method() -> Method:
    return methods.build(base())._replace(evaluators=(RETRIEVAL,), pictures=None, schedule=None)


@pytest.mark.parametrize(("size", "devices"), [(20, 1), (7, 2)])
def test_all_examples_are_there_once_whatever_the_batch_size_and_the_devices(size: int, devices: int) -> None:
    config = base()
    config.evaluation.examples, config.evaluation.batch_size = IMAGES, size
    found = collect(config, method(), RETRIEVAL, {"scale": jnp.float32(2)}, mesh_of(devices))
    digits = data.load("digits", "test")
    images = np.stack([digits.source[k]["image"] for k in range(IMAGES)])[..., 0].astype(float)
    nearest = np.argmax(images.sum(1) @ images.sum(2).T, axis=1)
    assert found == {
        "recall": pytest.approx(np.mean(nearest == np.arange(IMAGES))),
        "kind": "u",  # arrays keep their types
        "examples": IMAGES,
        "dataset": f"digits ({digits.version})",
        "split": "test",
        "seed": config.evaluation.seed,
    }


def test_its_result_is_in_eval_json_and_its_sentence_is_printed(tmp_path: Any, capsys: pytest.CaptureFixture) -> None:
    config = base()
    config.evaluation.examples = IMAGES
    evaluated = method()
    report.write_evaluation(config, evaluated, {"scale": jnp.float32(2)}, mesh_of(2), epath.Path(tmp_path), 7)
    result = json.loads((tmp_path / "eval.json").read_text())
    assert (result["step"], result["weights"]) == (7, config.evaluation.weights)
    line = f"recall {result['retrieval']['recall']:.3f}"
    assert line in capsys.readouterr().out
    assert report.sentences(result, evaluated) == [line]
    with pytest.raises(KeyError):
        report.sentences({"step": 7}, evaluated)
