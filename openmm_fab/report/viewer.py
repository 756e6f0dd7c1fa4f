"""The NGL library from the nglview package, for the page's 3-D viewer."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

from ..tools.install import install

MARK = "BallAndStickRepresentation:"  # found in NGL's module only


def ngl_library() -> tuple[str, str]:
    """JavaScript of NGL, which defines the global NGL, and its licences; ("", reason) if it is not available.

    nglview ships NGL inside the bundles of its JupyterLab extension: one of them holds NGL's module, others what that
    needs. They are kept as they are, and a few lines stand in for the module loader they were packed for.
    """
    try:
        files = metadata.files("nglview") or []
    except metadata.PackageNotFoundError:
        return "", f"nglview is not installed: {install('notebook')}, then write the report again."
    paths = [Path(str(file.locate())) for file in files if file.suffix == ".js" and "labextensions" in file.parts]
    bundles = {
        path: path.read_text(encoding="utf-8") for path in paths if path.exists() and "remoteEntry" not in path.name
    }
    main = next((path for path, text in bundles.items() if MARK in text and "webpackChunk" in text[:400]), None)
    if main is None:
        return "", "this nglview holds no NGL library that the report knows how to use; 4.0 does."
    chosen = [main, *_needed_by(bundles[main], {p: t for p, t in bundles.items() if p != main})]
    licences = [Path(f"{path}.LICENSE.txt") for path in chosen]
    texts = [path.read_text(encoding="utf-8") for path in licences if path.exists()]
    code = "\n;\n".join(bundles[path] for path in chosen)
    return f"{code}\n;{LOADER}", "\n".join(["NGL: MIT licence, https://nglviewer.org", *texts])


def _needed_by(text: str, others: dict[Path, str]) -> list[Path]:
    """The smallest bundles that define what a bundle asks for and does not hold."""
    asked = set(re.findall(r"\bn\((\d+)\)", text))
    missing = {number for number in asked if not re.search(rf"[,{{]{number}:", text)}
    found: list[Path] = []
    for number in sorted(missing):
        holds = [path for path, code in others.items() if re.search(rf"[,{{]{number}:", code)]
        if holds:
            found.append(min(holds, key=lambda path: len(others[path])))
    return list(dict.fromkeys(found))


# What webpack's own runtime would do: collect the modules that the bundles leave on the page, and hand them out.
LOADER = """
(function () {
const modules = {}, loaded = {};
for (const key of Object.keys(window).filter((key) => key.startsWith("webpackChunk")))
  for (const part of window[key]) Object.assign(modules, part[1]);
function load(id) {
  if (!(id in loaded)) {
    const module = (loaded[id] = { exports: {}, id: id, loaded: false });
    modules[id].call(module.exports, module, module.exports, load);
    module.loaded = true;
  }
  return loaded[id].exports;
}
load.o = (of, key) => Object.prototype.hasOwnProperty.call(of, key);
load.d = (to, from) => {
  for (const key in from) if (!load.o(to, key)) Object.defineProperty(to, key, { enumerable: true, get: from[key] });
};
load.r = (to) => Object.defineProperty(to, "__esModule", { value: true });
load.n = (module) => {
  const get = module && module.__esModule ? () => module.default : () => module;
  load.d(get, { a: get });
  return get;
};
load.nmd = (module) => Object.assign(module, { paths: [], children: module.children || [] });
load.g = window;
window.NGL = load(Object.keys(modules).find((key) => String(modules[key]).includes("MARK")));
})();""".replace("MARK", MARK)
