"""Brings benchmarks/ and notebooks/ into the site, and turns equations into MathML, which browsers draw alone."""

from __future__ import annotations

import html
import json
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


def on_config(config: Any) -> Any:
    project = (Path(config["config_file_path"]).parent / "pyproject.toml").read_text("utf-8")
    config["copyright"] = "openmm_fab " + re.findall(r'^version = "(.*)"$', project, re.MULTILINE)[0]
    return config


def on_files(files: Files, config: Any) -> Files:
    root = Path(config["config_file_path"]).parent
    folder = root / "benchmarks"
    for path in [folder / "RESULTS.md", *sorted((folder / "figures").glob("*.*"))]:
        uri = f"benchmarks/{path.relative_to(folder).as_posix()}"
        files.append(File.generated(config, uri, abs_src_path=str(path)))
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=notebook_page(path)))
    files.append(File.generated(config, SHIM, abs_src_path=str(root / "docs" / ".site" / "iframe-worker.js")))
    return files


def notebook_page(path: Path) -> str:
    """A notebook with its outputs, as Markdown."""
    parts = []
    for cell in json.loads(path.read_text("utf-8"))["cells"]:
        source = "".join(cell["source"]).strip()
        parts.append(source if cell["cell_type"] == "markdown" else _fenced(source, "python"))
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/png" in data:
                picture = "".join(data["image/png"]).replace("\n", "")
                parts.append(f'<img alt="output" src="data:image/png;base64,{picture}">')
            elif text := "".join(
                data.get("text/plain", output.get("text", []) if output.get("name") == "stdout" else [])
            ):
                parts.append(_fenced(text.rstrip(), "text"))
    return "\n\n".join(part for part in parts if part)


def _fenced(text: str, language: str) -> str:
    return f"````{language}\n{text}\n````" if text else ""


def on_page_markdown(markdown: str, **_: Any) -> str:
    markdown = re.sub(r"\]\(\.\./notebooks/(\w+)\.ipynb\)", r"](notebooks/\1.md)", markdown)
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
