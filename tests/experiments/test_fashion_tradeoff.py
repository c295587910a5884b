"""Fashion-MNIST's rows compare models of one network; the facts that its committed results must show."""

import json
from functools import partial

import pytest

from experiments.ddpm import fashion_tradeoff
from tests.results import clearly, measured

SAME = ("data.name", "data.shape", "model.network", "model.width", "model.multipliers", "training.num_steps")


committed = partial(measured, "fashion_tradeoff")


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


def test_the_best_bound_is_not_the_best_sampler_and_students_want_few_evaluations():
    rows = committed()
    assert 0.85 < rows["test images"]["accuracy"]["mean"] < 0.95
    bits = {kind: rows[f"{kind}, bound of all steps"]["bits_per_dim"]["mean"] for kind in fashion_tradeoff.KINDS}
    assert min(bits, key=bits.get) == "VDM"
    far = lambda name, n: rows[f"{name}, {n} evaluations"]["frechet_unbiased"]
    assert clearly(far("VDM, heun", 64), far("score SDE, heun", 64))
    assert clearly(far("DDPM, ancestral", 4), far("DDPM, ddim", 4))
    assert clearly(far("DDPM, ddim", 4), far("DDPM, distilled", 4))
    assert clearly(far("score SDE, predictor_corrector", 16), far("score SDE, euler_maruyama", 16))


@pytest.mark.parametrize("sampler", ["VDM, ancestral", "DDPM, ancestral", "DDPM, ddim", "score SDE, heun"])
def test_more_evaluations_come_nearer(sampler):
    rows = committed()
    found = [rows[f"{sampler}, {n} evaluations"]["frechet_unbiased"]["mean"] for n in (4, 8, 16, 64)]
    assert found == sorted(found, reverse=True)
