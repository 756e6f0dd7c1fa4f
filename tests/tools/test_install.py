"""Messages name a command that works where the package came from: a checkout, a wheel, a repository, or an index."""

from __future__ import annotations

import json
import re
import shlex
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from test_layering import SOURCES

from openmm_fab.tools import install as module
from openmm_fab.tools.install import install


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """Make the package seem installed, from what its direct_url.json says; None: there is no such file."""
    monkeypatch.setattr(module, "CHECKOUT", tmp_path / "site-packages")

    def seem(source: object) -> None:
        class Distribution:
            def read_text(self, name: str) -> str | None:
                assert name == "direct_url.json"
                return source if isinstance(source, str) or source is None else json.dumps(source)

        monkeypatch.setattr(metadata, "distribution", lambda name: Distribution())

    return seem


def wanted(extra: str = "ligand") -> str:
    """What the command has pip install."""
    pip, verb, what = shlex.split(install(extra))
    assert (pip, verb) == ("pip", "install")
    return what


def test_of_a_checkout(monkeypatch, tmp_path) -> None:
    checkout = tmp_path / "a folder"
    checkout.mkdir()
    (checkout / "pyproject.toml").touch()
    monkeypatch.setattr(module, "CHECKOUT", checkout)
    monkeypatch.chdir(tmp_path)
    assert wanted() == f"{checkout}[ligand]"
    monkeypatch.chdir(checkout)
    assert install("md") == "pip install '.[md]'"


def test_of_a_folder_or_a_wheel_that_is_still_there(installed, tmp_path) -> None:
    wheel = tmp_path / "openmm_fab 1.whl"
    installed({"url": tmp_path.as_uri(), "dir_info": {}})
    assert wanted() == f"{tmp_path}[ligand]"
    installed({"url": wheel.as_uri(), "archive_info": {}})
    assert wanted() == "openmm_fab[ligand]"
    wheel.touch()
    assert wanted() == f"{wheel}[ligand]"


def test_of_a_repository_or_a_page(installed) -> None:
    vcs = {"vcs": "git", "commit_id": "0123abc", "requested_revision": "main"}
    installed({"url": "https://example.org/a.git", "vcs_info": vcs})
    found = Requirement(wanted())
    assert (found.name, found.extras, found.url) == ("openmm_fab", {"ligand"}, "git+https://example.org/a.git@0123abc")
    installed({"url": "https://example.org/openmm_fab-1-py3-none-any.whl", "archive_info": {}})
    assert Requirement(wanted()).url == "https://example.org/openmm_fab-1-py3-none-any.whl"


@pytest.mark.parametrize("source", [None, "", "{", {}])
def test_of_an_index(installed, source) -> None:
    installed(source)
    assert install("md") == "pip install 'openmm_fab[md]'"


def test_the_extras_of_messages_exist() -> None:
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    extras = set(re.findall(r"^([\w-]+) = \[", text.split("[project.optional-dependencies]")[1], re.MULTILINE))
    named = {name for source in SOURCES.values() for name in re.findall(r"\binstall\([\"']([\w-]+)[\"']\)", source)}
    assert {"md", "ligand", "notebook"} <= named <= extras
    assert not [path for path, source in SOURCES.items() if re.search(r"pip install ['\"]*openmm_fab", source)]
