"""pyproject.toml says what may work, constraints.txt what was tested; conda users get the same."""

import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
LINES = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
PINS = dict(line.split("==") for line in LINES if line and not line.startswith("#"))
REQUIREMENTS = [
    Requirement(line)
    for group in (PROJECT["dependencies"], *(EXTRAS[name] for name in EXTRAS if name != "all"))
    for line in group
]


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=lambda requirement: requirement.name)
def test_every_requirement_is_pinned_within_its_range(requirement: Requirement) -> None:
    pin = PINS[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(pin), f"{requirement} against the pin {pin}"
    assert Version(version(requirement.name)).public == pin, "the installed version is another"


def test_all_is_the_sum_of_the_other_extras() -> None:
    (everything,) = map(Requirement, EXTRAS["all"])
    assert everything.name == PROJECT["name"]
    assert everything.extras == set(EXTRAS) - {"all"}


def test_conda_installs_the_same() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))
    *packages, by_pip = environment["dependencies"]
    assert by_pip == {"pip": ["--constraint constraints.txt", "--editable .[all]"]}
    (python,) = (line.split("=")[1] for line in packages if line.startswith("python="))
    assert SpecifierSet(PROJECT["requires-python"]).contains(python)
