"""Brings benchmarks/ into the site, as pages link there, and turns equations into MathML, which browsers draw alone."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

try:
    from latex2mathml.converter import convert
except ImportError as error:
    raise PluginError("Equations need latex2mathml: pip install 'openmm_fab[docs]', or make docs.") from error

SHIM = "assets/iframe-worker.js"


def on_files(files: Files, config: Any) -> Files:
    root = Path(config["config_file_path"]).parent
    folder = root / "benchmarks"
    for path in [folder / "RESULTS.md", *sorted((folder / "figures").glob("*.*"))]:
        uri = f"benchmarks/{path.relative_to(folder).as_posix()}"
        files.append(File.generated(config, uri, abs_src_path=str(path)))
    files.append(File.generated(config, SHIM, abs_src_path=str(root / "docs" / ".site" / "iframe-worker.js")))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    return markdown.replace("](../benchmarks/", "](benchmarks/")


def on_page_content(content: str, page: Any, **_: Any) -> str:
    """Equations that pymdownx.arithmatex has marked: <span|div class="arithmatex">."""

    def equation(found: re.Match[str]) -> str:
        kind, tex = found[1], html.unescape(found[2]).strip()[2:-2]
        try:
            if kind == "span":
                return convert(tex)
            return f'<div style="overflow-x: auto">{convert(tex, display="block")}</div>'
        except Exception as error:
            raise PluginError(
                f"Expected an equation that latex2mathml reads in {page.file.src_uri}; got {tex}"
            ) from error

    return re.sub(r'<(span|div) class="arithmatex">(.*?)</\1>', equation, content, flags=re.DOTALL)
