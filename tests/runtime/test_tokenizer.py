"""The tokenizer of a run: where it is found, how it is trained once, and that config.json can be moved with it."""

from pathlib import Path

import pytest
from etils import epath

from tests.training import runs
from vdm_jax import data
from vdm_jax.errors import UserError
from vdm_jax.runtime import tokenizer, workdir


@pytest.fixture(autouse=True)
def few_captions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer, "_CAPTIONS", 200)


def shapes() -> data.Dataset:
    return data.load("shapes", "train", shape=(32, 32, 3))


def test_an_empty_path_is_the_first_directory_with_a_tokenizer(tmp_path: Path) -> None:
    config = runs.clip()
    config.data.tokenizer_path = ""
    first, second = epath.Path(tmp_path / "a"), epath.Path(tmp_path / "b")
    assert tokenizer.located(config, first, second).data.tokenizer_path == str(first / "tokenizer.json")
    second.mkdir()
    (second / "tokenizer.json").write_text("{}")
    assert tokenizer.located(config, first, second).data.tokenizer_path == str(second / "tokenizer.json")
    assert tokenizer.located(config, None).data.tokenizer_path == "" == config.data.tokenizer_path
    given = runs.clip()
    assert tokenizer.located(given, first) is given


def test_a_saved_config_does_not_name_its_own_directory(tmp_path: Path) -> None:
    """So the directory can be moved."""
    config, here = runs.clip(), epath.Path(tmp_path)
    config.data.tokenizer_path = ""
    workdir.claim(here, tokenizer.located(config, here))
    saved = workdir.saved_config(here)
    assert saved is not None and saved["data"]["tokenizer_path"] == ""


def test_it_is_trained_once_and_kept(tmp_path: Path) -> None:
    config, here = runs.clip(), epath.Path(tmp_path)
    config.data.tokenizer_path, config.model.vocabulary = "", 400
    config = tokenizer.located(config, here)
    line = tokenizer.ensure(config, shapes(), here)
    assert "bpe" in line and "captions have more than 12 tokens and are truncated" in line
    file = tmp_path / "tokenizer.json"
    before = file.read_bytes(), file.stat().st_mtime_ns
    assert tokenizer.ensure(config, shapes(), here) == line
    assert (file.read_bytes(), file.stat().st_mtime_ns) == before


def test_a_table_that_is_too_small_for_the_tokenizer_is_refused(tmp_path: Path) -> None:
    config, here = runs.clip(), epath.Path(tmp_path)
    config.data.tokenizer_path, config.model.vocabulary = "", 400
    config = tokenizer.located(config, here)
    tokenizer.ensure(config, shapes(), here)
    config.model.vocabulary = 270
    with pytest.raises(UserError, match=r"more than the 270 rows of config\.model\.vocabulary"):
        tokenizer.ensure(config, shapes(), here)


def test_a_model_without_text_has_no_tokenizer(tmp_path: Path) -> None:
    assert tokenizer.ensure(runs.points(), shapes(), epath.Path(tmp_path)) == ""
    assert not list(tmp_path.iterdir())
