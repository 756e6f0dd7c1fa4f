"""Brings benchmarks/ into the site: its pages link there as they lie in the repository, outside docs/."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files


def on_files(files: Files, config: Any) -> Files:
    folder = Path(config["config_file_path"]).parent / "benchmarks"
    for path in [folder / "RESULTS.md", *sorted((folder / "figures").glob("*.*"))]:
        uri = f"benchmarks/{path.relative_to(folder).as_posix()}"
        files.append(File.generated(config, uri, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    return markdown.replace("](../benchmarks/", "](benchmarks/")
