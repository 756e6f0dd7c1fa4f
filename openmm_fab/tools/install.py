"""The command that installs an extra of this package, from where the package itself came."""

from __future__ import annotations

import json
import shlex
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote, urlparse

PACKAGE = "openmm_fab"
CHECKOUT = Path(__file__).parents[2]


def install(extra: str) -> str:
    """pip's command for an extra: of the checkout that this package lies in or was installed from, of its wheel or
    repository, or else of the package index."""
    return f"pip install {shlex.quote(_requirement(extra))}"


def _requirement(extra: str) -> str:
    if (CHECKOUT / "pyproject.toml").is_file():
        return f".[{extra}]" if Path.cwd() == CHECKOUT else f"{CHECKOUT}[{extra}]"
    name = f"{PACKAGE}[{extra}]"
    try:
        source = json.loads(metadata.distribution(PACKAGE).read_text("direct_url.json") or "{}")
    except (metadata.PackageNotFoundError, ValueError):
        return name
    url = str(source.get("url", ""))
    if "vcs_info" in source:
        return f"{name} @ {source['vcs_info']['vcs']}+{url}@{source['vcs_info']['commit_id']}"
    path = Path(unquote(urlparse(url).path))
    if url.startswith("file:") and path.exists():  # a folder, or a wheel
        return f"{path}[{extra}]"
    return f"{name} @ {url}" if url.startswith("http") else name
