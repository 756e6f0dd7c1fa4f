"""The documentation: pages and links exist, and its commands, settings and names are those of the package."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from pathlib import Path

import pytest
import typer

from openmm_fab.cli.commands import app
from openmm_fab.cli.settings import run_settings
from openmm_fab.report.glossary import WORDS
from openmm_fab.tools.toml import tomllib
from openmm_fab.train import start

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [*sorted(DOCS.glob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def prose(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def anchors(path: Path) -> set[str]:
    """As Python-Markdown makes them of headings, and code hosts too."""
    headings = re.findall(r"^#+ (.*)$", prose(path.read_text(encoding="utf-8")), flags=re.MULTILINE)
    slugs = (re.sub(r"[^\w\s-]", "", heading.replace("`", "")).strip().lower() for heading in headings)
    return {re.sub(r"[\s-]+", "-", slug) for slug in slugs}


def broken_links(path: Path, text: str) -> list[str]:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(text)):
        file, _, anchor = target.partition("#")
        if target.startswith(("http://", "https://")):
            continue
        there = (path.parent / file).resolve() if file else path
        if not there.exists() or (anchor and anchor not in anchors(there)):
            broken.append(target)
    return broken


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_resolve(path: Path) -> None:
    assert not broken_links(path, path.read_text(encoding="utf-8"))


def test_broken_links_are_seen() -> None:
    page = DOCS / "index.md"
    assert broken_links(page, "[a](nothing.md)") and broken_links(page, "[a](install.md#nothing)")
    assert not broken_links(page, "[a](install.md#gpu) [b](#what-it-is-for-and-what-not) [c](https://x.org/y)")


def test_every_page_is_in_the_navigation_and_exists() -> None:
    config = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = re.findall(r"^ +- .*: (\S+\.md)$", config[config.index("\nnav:") :], flags=re.MULTILINE)
    assert len(listed) == len(set(listed)) > 10
    # the hook brings these in
    outside = {"benchmarks/RESULTS.md", *(f"notebooks/{path.stem}.md" for path in (ROOT / "notebooks").glob("*.ipynb"))}
    assert (ROOT / "benchmarks" / "RESULTS.md").exists()
    assert set(listed) - outside == {path.name for path in DOCS.glob("*.md")}
    for hook in re.findall(r"^hooks: \[(.*)\]", config, flags=re.MULTILINE):
        assert (ROOT / hook).exists()


# Keywords of PLUMED 2.9 and 2.10 as their manuals list them; those without which an action does not do what is meant.
PLUMED = {
    "READ": ({"FILE", "VALUES", "STRIDE", "EVERY", "IGNORE_TIME", "IGNORE_FORCES"}, {"FILE", "VALUES"}),
    "REWEIGHT_BIAS": ({"ARG", "TEMP"}, {"ARG", "TEMP"}),
    "HISTOGRAM": (
        {"ARG", "GRID_MIN", "GRID_MAX", "GRID_BIN", "GRID_SPACING", "BANDWIDTH", "KERNEL", "LOGWEIGHTS"}
        | {"NORMALIZATION", "STRIDE", "CLEAR", "UPDATE_FROM", "UPDATE_UNTIL"},
        {"ARG", "GRID_MIN", "GRID_MAX", "LOGWEIGHTS", "NORMALIZATION"},
    ),
    "CONVERT_TO_FES": ({"GRID", "TEMP", "MINTOZERO"}, {"GRID", "TEMP"}),
    "DUMPGRID": ({"GRID", "FILE", "STRIDE", "FMT"}, {"GRID", "FILE"}),
}


def plumed_faults(text: str) -> list[str]:
    """What is wrong with a PLUMED input: unknown actions, keywords and labels, missing keywords, nothing written."""
    faults, labels, written = [], set(), False
    for line in text.strip().splitlines():
        label, _, rest = line.rpartition(": ")
        action, *words = rest.split()
        if action not in PLUMED:
            faults.append(f"no action {action}")
            continue
        known, needed = PLUMED[action]
        given = dict(word.partition("=")[::2] for word in words)
        faults += [f"{action} knows no {key}" for key in given.keys() - known]
        faults += [f"{action} lacks {key}" for key in needed - given.keys()]
        faults += [
            f"no label {given[key]} before {action}"
            for key in given.keys() & {"ARG", "LOGWEIGHTS", "GRID"}
            if given[key] not in labels
        ]
        if action == "HISTOGRAM" and given.get("NORMALIZATION") != "true":
            faults.append("the weights are left out")
        labels |= {label} - {""}
        written |= action == "DUMPGRID"
    return faults if written else [*faults, "nothing is written"]


def test_the_input_for_plumed_is_of_its_grammar() -> None:
    (text,) = blocks((DOCS / "other_tools.md").read_text(encoding="utf-8"), "plumed")
    assert plumed_faults(text) == []
    assert plumed_faults(text.replace(" NORMALIZATION=true", "")) == [
        "HISTOGRAM lacks NORMALIZATION",
        "the weights are left out",
    ]
    assert plumed_faults(text.replace("VALUES=bias", "COLUMNS=bias")) == ["READ knows no COLUMNS", "READ lacks VALUES"]
    assert plumed_faults(text.replace("ARG=bias", "ARG=b")) == ["no label b before REWEIGHT_BIAS"]
    assert plumed_faults(text.partition("DUMPGRID")[0]) == ["nothing is written"]


def test_the_site_loads_nothing_from_elsewhere() -> None:
    """The plugin for search without a server would name a script of another host, were there none of that name."""
    config = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    (polyfills,) = re.findall(r"^  polyfills: \[(.*?)\]", config, flags=re.MULTILINE)
    assert "iframe-worker" in polyfills and (DOCS / ".site" / Path(polyfills).name).exists()
    assert "://" not in config and "font: false" in config


def test_the_api_page_names_what_exists() -> None:
    text = "\n".join((DOCS / page).read_text(encoding="utf-8") for page in ("api.md", "api_modules.md"))
    entries = re.split(r"^::: ", text, flags=re.MULTILINE)[1:]
    assert len(entries) > 60
    for entry in entries:
        name = entry.split()[0]
        found = _object(name)
        listed = re.search(r"members: \[(.*)\]", entry)
        for member in [m.strip() for m in listed[1].split(",")] if listed else []:
            assert hasattr(found, member), f"{name}.{member}"


def _object(name: str) -> object:
    parts = name.split(".")
    for k in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:k]))
        except ModuleNotFoundError:
            continue
        for part in parts[k:]:
            found = getattr(found, part)
        return found
    raise AssertionError(f"{name} cannot be imported")


def missing(code: str) -> list[str]:
    """Names of the package that Python code imports, or takes from an imported module, and that are not there."""
    names: dict[str, str] = {}
    wanted: list[str] = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names[alias.asname or alias.name] = alias.name
                wanted.append(alias.name)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                wanted.append(f"{node.module}.{alias.name}")
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in names:
            wanted.append(f"{names[node.value.id]}.{node.attr}")
    return [name for name in dict.fromkeys(wanted) if name.split(".")[0] == "openmm_fab" and not _exists(name)]


def _exists(name: str) -> bool:
    try:
        _object(name)
    except (AssertionError, AttributeError):
        return False
    return True


def test_a_missing_name_is_seen() -> None:
    code = "import openmm_fab as fab\nfrom openmm_fab import flow\nfrom openmm_fab.ais import AISSettings\n"
    assert not missing(code + "fab.compare(1, 2)\nflow.CouplingFlow(torch.zeros(3))")
    assert missing(code + "fab.objectives.fab") == ["openmm_fab.objectives"]
    assert missing("from openmm_fab.moves import accept\nimport openmm_fab.buffer") == [
        *("openmm_fab.moves.accept", "openmm_fab.buffer")
    ]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_names_and_files_of_a_page_exist(path: Path) -> None:
    """Dotted names, imports of its Python, files and folders of the repository, and tests that are picked by -k."""
    text = path.read_text(encoding="utf-8")
    code = "\n".join(blocks(text, "python"))
    assert not missing(f"import openmm_fab as fab\n{code}")
    dotted = set(re.findall(r"\b(openmm_fab(?:\.[A-Za-z_]\w*)+)", text))
    assert not [name for name in sorted(dotted) if not _exists(name)]
    files = set(
        re.findall(r"(?<![\w/.-])((?:openmm_fab|tests|docs|notebooks|systems|benchmarks)/[\w./-]*\w)\b(?!<)", text)
    )
    assert not [file for file in sorted(files) if not (ROOT / file).exists()]
    for name in re.findall(r"python -m benchmarks\s+([a-z]\w*)", text):
        assert (ROOT / "benchmarks" / f"{name}.py").exists() or (ROOT / "benchmarks" / name).is_dir(), name
    modules = {file.relative_to(ROOT / "openmm_fab").as_posix() for file in (ROOT / "openmm_fab").rglob("*.py")}
    wings = "|".join({module.split("/")[0] for module in modules if "/" in module})
    assert set(re.findall(rf"`((?:{wings})/[\w/]+\.py)`", text)) <= modules
    for picked, pattern in re.findall(r"`([^`\n]*tests/[^`\n]*) -k (\"[^\"]*\"|\w+)", text):
        tests = " ".join((ROOT / file).read_text(encoding="utf-8") for file in re.findall(r"tests/[\w/]*\.py", picked))
        for word in set(re.findall(r"\w+", pattern)) - {"or", "and", "not"}:
            assert re.search(rf"def test_\w*{word}", tests), f"{picked} -k {word}"


def dead_references(source: str) -> list[str]:
    """What docstrings send the reader to (see `...`) that is neither in their module nor in the package."""
    tree = ast.parse(source)
    here = {
        name for node in ast.walk(tree) for name in (getattr(node, "name", None), getattr(node, "arg", None)) if name
    }
    texts = [
        ast.get_docstring(node) or ""
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
    ]
    names = re.findall(r"\b[Ss]ee\s`([A-Za-z][\w.]*)`", "\n".join(texts))
    return [name for name in names if name.split(".")[0] not in here and not _exists(f"openmm_fab.{name}")]


def test_references_of_docstrings_exist() -> None:
    files = sorted((ROOT / "openmm_fab").rglob("*.py"))
    dead = {file.relative_to(ROOT).as_posix(): dead_references(file.read_text(encoding="utf-8")) for file in files}
    assert {file: names for file, names in dead.items() if names} == {}
    made_up = 'def f(x):\n    """See `g`, see `flow.coupling`, see `Ensemble` and see `watch`."""\ndef g(): pass'
    assert dead_references(made_up) == ["watch"]


def fragments(source: str) -> list[str]:
    """First words of docstrings whose subject is the name of what they describe."""
    found = [
        (ast.get_docstring(node) or "").partition("\n")[0]
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
    ]
    return [line for line in found if re.match(r"(Of|The same|As|Likewise|It|Its|Them|Same|See) ", line)]


def test_docstrings_are_understood_without_the_name() -> None:
    files = sorted((ROOT / "openmm_fab").rglob("*.py"))
    assert [line for file in files for line in fragments(file.read_text(encoding="utf-8"))] == []
    assert fragments('def f(x):\n    """Of positions (n, 3)."""') == ["Of positions (n, 3)."]


def without_markup(text: str) -> str:
    text = re.sub(r" \(\[(?:theory|units)\]\([^)]*\)\)", "", text)  # where to read more
    return re.sub(r"[*`]|\[([^\]]*)\]\([^)]*\)", r"\1", text)


def test_the_glossary_of_reports_is_that_of_the_docs() -> None:
    rows = re.findall(r"^\| (\*\*.*?) \| (.*) \|$", (DOCS / "glossary.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert {without_markup(word): without_markup(meaning) for word, meaning in rows} == WORDS
    assert len(WORDS) > 40


def test_the_phases_are_those_of_the_code() -> None:
    """Names and limits of the start's phases in the tables and equations."""
    text = (DOCS / "how_it_works.md").read_text(encoding="utf-8")
    assert tuple(re.findall(r"^\| (\w+) \|", text[text.index("| phase |") :], re.MULTILINE)[1:5]) == start.PHASES
    assert [float(lam) for lam in re.findall(r"λ reaches ([\d.]+)", text)] == [start.APART, start.JOINT]
    assert f"| ESS {100 * start.ENOUGH:.0f} % |" in text
    theory = (DOCS / "theory.md").read_text(encoding="utf-8")
    assert f"effective sample size of ${start.TRUST}\\,n$" in theory and f"\\tfrac1{start.DEFENSIVE} r(t)" in theory


def test_an_init_names_modules_that_are_there() -> None:
    for face in sorted((ROOT / "openmm_fab").rglob("__init__.py")):
        tree = ast.parse(face.read_text(encoding="utf-8"))
        here = {path.stem for path in face.parent.glob("*.py")} | {
            path.parent.name for path in face.parent.glob("*/*.py")
        }
        here |= {alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names}
        names = set(re.findall(r"`(\w+)`", ast.get_docstring(tree) or ""))
        assert names <= here, face.relative_to(ROOT)


def commands_in(text: str) -> list[list[str]]:
    lines = re.findall(r"^\s*(?:\$ )?(openmm-fab .*)$", text, flags=re.MULTILINE)
    return [shlex.split(line, comments=True)[1:] for line in lines]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_commands_are_understood(path: Path) -> None:
    """Each command of a code block parses; nothing runs."""
    text = path.read_text(encoding="utf-8")
    for arguments in commands_in("\n".join(blocks(text, r"\w*"))):
        if not arguments[0].startswith("-") and arguments[0] != "COMMAND":
            assert arguments[0] in COMMANDS, arguments
            COMMANDS[arguments[0]].make_context(arguments[0], arguments[1:])


def test_examples_of_help_are_understood() -> None:
    for name, command in COMMANDS.items():
        examples = commands_in(command.help or "")
        assert any(arguments[0] == name for arguments in examples), name
        for arguments in examples:
            COMMANDS[arguments[0]].make_context(arguments[0], arguments[1:])
    with pytest.raises(Exception, match=r"[Nn]o such option"):
        COMMANDS["run"].make_context("run", ["butane", "--nonsense"])


def test_settings_of_the_docs_are_settings(tmp_path) -> None:
    text = (DOCS / "command_line.md").read_text(encoding="utf-8")
    (example,) = blocks(text, "toml")
    (tmp_path / "my.toml").write_text(example)
    assert run_settings(tmp_path / "my.toml").settings.train.batch == tomllib.loads(example)["train"]["batch"]
    # `[train] batch = 512; ...`, as troubleshooting says it
    advice = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    found = re.findall(r"`\[([\w.]+)\] (\w+) = ([^`;]+)`", advice)
    assert len(found) > 5
    for table, key, value in found:
        run_settings(None, [f"{table}.{key}={value}"])


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_python_of_the_docs_parses(path: Path) -> None:
    for code in blocks(path.read_text(encoding="utf-8"), "python"):
        ast.parse(code)
