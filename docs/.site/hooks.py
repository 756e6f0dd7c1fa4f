"""Brings benchmarks/ and notebooks/ into the site, with a gallery, and turns equations into MathML, which browsers draw
alone."""

from __future__ import annotations

import base64
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
    raise PluginError("Equations need latex2mathml: pip install '.[docs]', or make docs.") from error

ASSETS = ("iframe-worker.js", "extra.css")
GALLERY = "<!-- gallery -->"  # stands on notebooks.md


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
        files.append(File.generated(config, f"notebooks/{path.stem}.png", content=base64.b64decode(picture(path))))
    for name in ASSETS:
        files.append(File.generated(config, f"assets/{name}", abs_src_path=str(root / "docs" / ".site" / name)))
    return files


def picture(path: Path) -> str:
    """The PNG, base64, of the cell of a notebook that is tagged "gallery"."""
    for cell in json.loads(path.read_text("utf-8"))["cells"]:
        if "gallery" in cell["metadata"].get("tags", []):
            for output in cell["outputs"]:
                if "image/png" in output.get("data", {}):
                    return "".join(output["data"]["image/png"])
    raise PluginError(f"Expected a cell with the tag gallery and a picture in {path}; got none. Tag one, and run it.")


def gallery(table: str) -> str:
    """HTML of a picture and a link for each row of a table of notebooks, in Markdown: | [title](file) | words | ..."""
    rows = re.findall(r"^\| \[(.*?)\]\(.*?(\w+)\.ipynb\) \| (.*?) \|", table, re.MULTILINE)
    cards = "\n".join(
        f'<a href="notebooks/{stem}.html"><img src="notebooks/{stem}.png" alt="">'
        f"<strong>{html.escape(title)}</strong><br>{html.escape(words)}</a>"
        for title, stem, words in rows
    )
    return f'<div class="gallery">{cards}</div>'


def notebook_page(path: Path) -> str:
    """A notebook with its outputs, as Markdown."""
    parts = []
    for cell in json.loads(path.read_text("utf-8"))["cells"]:
        source = "".join(cell["source"]).strip()
        parts.append(source if cell["cell_type"] == "markdown" else _fenced(source, "python"))
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/png" in data:
                png = "".join(data["image/png"]).replace("\n", "")
                parts.append(f'<img alt="output" src="data:image/png;base64,{png}">')
            elif text := "".join(
                data.get("text/plain", output.get("text", []) if output.get("name") == "stdout" else [])
            ):
                parts.append(_fenced(text.rstrip(), "text"))
    return "\n\n".join(part for part in parts if part)


def _fenced(text: str, language: str) -> str:
    return f"````{language}\n{text}\n````" if text else ""


def on_page_markdown(markdown: str, **_: Any) -> str:
    markdown = markdown.replace(GALLERY, gallery(markdown))
    markdown = re.sub(r"\]\(\.\./notebooks/(\w+)\.ipynb\)", r"](notebooks/\1.md)", markdown)
    return markdown.replace("](../benchmarks/", "](benchmarks/")


def on_page_content(content: str, page: Any, **_: Any) -> str:
    """Equations that pymdownx.arithmatex has marked: <span|div class="arithmatex">."""

    def equation(found: re.Match[str]) -> str:
        kind, tex = found[1], html.unescape(found[2]).strip()[2:-2]
        try:
            if kind == "span":
                return _spaced(convert(tex))
            return f'<div class="equation">{_spaced(convert(tex, display="block"))}</div>'
        except Exception as error:
            raise PluginError(
                f"Expected an equation that latex2mathml reads in {page.file.src_uri}; got {tex}"
            ) from error

    return re.sub(r'<(span|div) class="arithmatex">(.*?)</\1>', equation, content, flags=re.DOTALL)


def _spaced(mathml: str) -> str:
    """MathML with a thin space on either side of the name of a function, none before a bracket: a log p, log(p)."""
    name, space = "(?:log|ln|det|exp)", '<mspace width="0.17em"></mspace>'
    mathml = re.sub(rf"(<mi>{name}</mi>)(?!</m|<mo[^>]*>&#x00028;)", rf"\1{space}", mathml)
    return re.sub(rf"(</mi>|</msub>|</msup>)(<mi>{name}</mi>)", rf"\1{space}\2", mathml)
