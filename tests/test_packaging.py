"""pyproject.toml, environment.yml and constraints.txt lead to the same packages."""

import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent


def requirements() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    optional = "magnitude-asr[onnx,hub,normalise]"
    assert optional in extras["dev"]  # the tests want them too
    wanted = {requirement for extra in extras.values() for requirement in extra}
    return {*project["dependencies"], *wanted} - {optional}


def test_the_conda_environment_installs_the_project_itself():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    (pip,) = [item["pip"] for item in conda if isinstance(item, dict)]
    assert pip == ["--constraint constraints.txt", "--editable .[dev]"]
    assert "python=3.11" in conda


def test_every_requirement_is_pinned_and_in_the_constraints():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
    for requirement in requirements():
        name, version = requirement.split("==")
        assert pinned[name.partition("[")[0]] == version
