"""What an installation brings: the core without TensorFlow and torch, six extras, configs and digits."""

from __future__ import annotations

import ast
import pathlib
import re
import sys
import tomllib
from typing import Any

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
# distribution → what it is imported as, where the names differ
MODULES = {
    "absl-py": "absl",
    "orbax-checkpoint": "orbax",
    "pillow": "PIL",
    "tensorflow-datasets": "tensorflow_datasets",
}


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        return tomllib.load(file)


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[<>=~! ]", requirement)[0] for requirement in requirements}


def test_extras_are_the_seven(project: dict[str, Any]) -> None:
    assert set(project["project"]["optional-dependencies"]) == {
        *("tpu", "cuda", "prepare", "plan", "text", "safetensors", "test")
    }
    assert names(project["project"]["optional-dependencies"]["prepare"]) == {"tensorflow"}
    text = names(project["project"]["optional-dependencies"]["text"])
    assert text == {"fonttools", "ftfy", "tokenizers"} <= names(project["project"]["optional-dependencies"]["test"])


def test_core_is_what_the_code_imports(project: dict[str, Any]) -> None:
    """Everything imported is declared; TensorFlow, torch and scikit-learn are not."""
    declared = {MODULES.get(name, name) for name in names(project["project"]["dependencies"])}
    optional = {"safetensors"}  # imported where it is used, with a sentence where it is missing
    imported: dict[str, str] = {}
    for path in (ROOT / "vdm_jax").rglob("*.py"):
        tree = ast.parse(path.read_text())
        at_once = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        assert not any(name in ast.unparse(node) for node in at_once for name in optional), path
        for node in ast.walk(tree):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) and node.level == 0 else []
            imported |= {module.split(".")[0]: path.name for module in modules}
    foreign = {
        name: path for name, path in imported.items() if name not in {*sys.stdlib_module_names, *optional, "vdm_jax"}
    }
    assert foreign.keys() <= declared, {name: foreign[name] for name in foreign.keys() - declared}
    assert not declared & {"tensorflow", "torch", "torchvision", "sklearn"}


def test_wheel_carries_the_configs_and_the_digits(project: dict[str, Any]) -> None:
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["packages"] == ["vdm_jax"] and wheel["force-include"] == {"configs": "vdm_jax/configs"}
    assert (ROOT / "vdm_jax" / "data" / "digits.npz").is_file()
    assert (ROOT / "vdm_jax" / "data" / "emoji_names.txt.gz").is_file()
    assert not (ROOT / "vdm_jax" / "configs").exists()  # it would shadow the checkout's own


def test_package_says_that_it_has_types(project: dict[str, Any]) -> None:
    """Type checkers read the annotations of an installed package only if it has this file."""
    assert (ROOT / "vdm_jax" / "py.typed").read_bytes() == b""
    assert "Typing :: Typed" in project["project"]["classifiers"]


def test_oldest_python_is_one_of_those_tested(project: dict[str, Any]) -> None:
    """.ci/run needs 3.11 or later, .ci/newest 3.13 or later."""
    tested = [c.rpartition(" ")[2] for c in project["project"]["classifiers"] if "Python :: 3." in c]
    assert tested == ["3.11", "3.13"] and project["project"]["requires-python"] == f">={tested[0]}"


def test_command_is_an_entry_point(project: dict[str, Any]) -> None:
    module, function = project["project"]["scripts"]["vdm_jax"].split(":")
    imported = __import__(module, fromlist=[function])
    assert callable(getattr(imported, function))


def test_changelog_and_citation_are_of_this_version_and_in_the_source_distribution(project: dict[str, Any]) -> None:
    version = project["project"]["version"]
    assert re.findall(r"^## \[(.+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[:2] == ["Unreleased", version]
    citation = (ROOT / "CITATION.cff").read_text()
    assert re.findall(r"^(?:version|license): (.+)$", citation, re.MULTILINE) == [
        version,
        project["project"]["license"],
    ]
    included = set(project["tool"]["hatch"]["build"]["targets"]["sdist"]["include"])
    assert {"CHANGELOG.md", "CITATION.cff"} <= included and all((ROOT / name).exists() for name in included)
