"""Fashion-MNIST's rows compare models of one network; the facts that its committed results must show."""

import json
import pathlib

from experiments import common, fashion_tradeoff

RESULTS = pathlib.Path(common.__file__).parent / "results" / "fashion_tradeoff.json"
SAME = ("data.name", "data.shape", "model.network", "model.width", "model.multipliers", "training.num_steps")


def committed():
    """{row: {metric: {mean, standard_error, …}}}."""
    return {e["name"]: e["measured"] for e in json.loads(RESULTS.read_text("utf-8"))["rows"]}


def test_models_have_one_network_and_rows_know_no_path_of_the_data():
    rows = fashion_tradeoff.rows("mini")
    found = [{name: row.config["fields"].get(name) for name in SAME} for row in rows if "fields" in row.config]
    assert len(found) > 30 and all(other == found[0] for other in found)
    assert {row.config["fields"].get("method", "vdm") for row in rows if "fields" in row.config} == {
        "vdm",
        "ddpm",
        "sde",
    }
    assert not any("path" in json.dumps(row.config) for row in rows)
