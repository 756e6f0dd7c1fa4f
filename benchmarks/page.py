"""Makes RESULTS.md, and the table of the README, of the records in results/: `python -m benchmarks page`.

A record whose benchmark has changed since keeps its tables as they were made then ("tables", "notes" in place of
"figures"). The command also draws the learning curves of all recorded main jobs.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from typing import Any

from . import records
from .records import Record, load

LONG = 12  # rows
CURVES = "learning_curves.png"
HEAD = """# Results

Made of the records in `benchmarks/results/` by `python -m benchmarks page`; they hold more digits, rows and curves
than are shown here. Commands of the form `python benchmarks/NAME.py` are of commits up to 356bd04, those of the form
`python -m benchmarks NAME` of later ones. What was timed on a CPU before 2026-11-29 was calculated by PyTorch, eager or
fused by `torch.compile`; the same work is C today.
"""
COSTS, WALKERS = records.ROOT / "openmm_fab" / "cli" / "race.json", ("metadynamics", "walkers-exchange")
README, MARKS = records.ROOT / "README.md", ("<!-- table: python -m benchmarks page -->\n", "<!-- /table -->\n")
Table = Callable[[Sequence[Record]], str]


def questions() -> dict[str, tuple[Table, tuple[str, ...]]]:
    """Of each section its question, what makes its text, and the names of its records, a star for any ending."""
    return {
        "How good is the ensemble, after how long a training?": (_jobs, ("main_job_*",)),
        "How long from the command to the first metrics?": (_abreast, ("cold_start",)),
        "What is an iteration, beside an older build?": (_each, ("steady",)),
        "Is the translated energy that of OpenMM?": (_largest, ("energy_accuracy",)),
        "What does an energy cost, with its gradient?": (_abreast, ("energy_*", "bridge_*", "own_energy_*")),
        "What do the coordinates cost?": (_each, ("coordinates_speed",)),
        "What lies beyond the range of the splines?": (_turned, ("coordinates_range",)),
        "Which conformers are beyond reach?": (_each, ("conformers",)),
        "What do minutes of training give for a ligand?": (_each, ("ligands",)),
        "Are populations of puckers, sides and rotamers right?": (_each, ("populations",)),
        "What does the flow cost, beside other libraries?": (_first, ("flow",)),
        "What does an outer step of FAB cost, by part?": (_abreast, ("outer_step", "outer_step_peer")),
        "What does a GPU do?": (_turned, ("gpu",)),
        "What do several processes give?": (_first, ("scaling",)),
        "Which method learns targets with known answers?": (_abreast, ("paper_gmm40_*", "paper_manywell32_*")),
        "Which method learns alanine dipeptide?": (_abreast, ("paper_alanine_dipeptide_*",)),
        "What does a flow built by bgflow learn?": (_turned, ("bgflow_fab",)),
        "What is annealing worth?": (_annealing, ("ais",)),
        "What is each default of the training worth?": (_joined, ("ablations_*",)),
        "Are free energies right, and their errors?": (_free_energies, ("free_energies_*",)),
        "What does one flow of several temperatures give?": (_each, ("temperatures",)),
        "Do runs until an error tell the truth?": (_abreast, ("calibration",)),
        "What does 0.1 kT cost, by a flow and by MD?": (_each, ("race",)),
        "What does a better energy cost, from a cheap one?": (_joined, ("refine_*",)),
        "How often does MD hop with proposals of the flow?": (_abreast, ("hops",)),
        "Is memory flat over hours, do killed runs resume?": (_words, ("soak", "kill9")),
        "Which faults do the tests notice?": (_faults, ("mutation_*",)),
    }


def text(found: dict[str, Record]) -> str:
    """The page of these records. One that answers no question here is refused."""
    parts, shown = [HEAD], set()
    for question, (make, patterns) in questions().items():
        names = [name for pattern in patterns for name in found if _is(name, pattern) and name not in shown]
        if names:
            parts.append(f"## {question}\n{make([found[name] for name in names]).strip()}\n")
            shown |= set(names)
    if left := sorted(found.keys() - shown):
        raise SystemExit(f"Expected a question for each record; {', '.join(left)} have none. Add it to questions().")
    return "\n".join(parts)


def _is(name: str, pattern: str) -> bool:
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern


def write() -> None:
    """Write RESULTS.md anew."""
    records.PAGE.write_text(text(records.read()), "utf-8")


def short(found: dict[str, Record]) -> str:
    """The README's table: main jobs on alanine dipeptide, seeds of the same training in one row."""
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for record in found.values():
        f = record.get("figures", {})
        default = record["benchmark"] == "main_job" and f.get("objective", "auto") == "auto"
        if default and f["system"] == "alanine_dipeptide":
            groups.setdefault((f["device"], round(f["seconds"] / 60), f["preset"]), []).append(record)
    rows = []
    for (device, minutes, preset), of in sorted(groups.items()):
        machine = of[0]["machine"].split(" (")[0].split(",")[0]
        figures = [record["figures"] for record in of]
        rows.append(
            [
                machine if device != "cpu" else f"one core of an {machine}",
                f"{minutes} min, preset {preset}, seed {', '.join(str(f['seed']) for f in figures)}",
                ", ".join(f"{100 * f['ess']:.1f}" for f in figures),
                ", ".join(f"{f['khat']:.2f}" for f in figures),
                ", ".join(f"{f['basin_df']:.2f} ± {f['basin_df_error']:.2f}" for f in figures),
            ]
        )
    return markdown(["machine", "training", "raw ESS, %", "k-hat", "ΔF(φ > 0) / kT"], rows) + "\n"


def write_readme(found: dict[str, Record]) -> None:
    """Put the table between its two marks in the README."""
    before, rest = README.read_text("utf-8").split(MARKS[0])
    README.write_text(before + MARKS[0] + short(found) + MARKS[1] + rest.split(MARKS[1])[1], "utf-8")


def costs(found: dict[str, Record]) -> str:
    """JSON of what molecular dynamics takes, for `openmm_fab.cli.instead`, of the record of the race."""
    record = found["race"]
    energies = {m: of for m, of in load("race").energies(record["figures"]).items() if m in WALKERS}
    return json.dumps({"date": record["date"], "commit": record["commit"], "energies": energies}, indent=1) + "\n"


def source(record: Record) -> str:
    """Command, date, commit and machine of a record, in one line."""
    command = record["command"]
    command = command if command.startswith("`") else f"`{command}`"
    return f"{command}, {record['date']}, commit {record['commit']}, {record['machine']}"


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of these cells."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _parts(record: Record) -> tuple[list[str], list[str]]:
    """Notes, and tables, of a record."""
    if "tables" in record:
        tables = [markdown(table["columns"], table["rows"]) for table in record["tables"]]
        return record["notes"], tables
    blocks = load(record["benchmark"]).table(record["figures"]).strip().split("\n\n")
    return [b for b in blocks if not b.startswith("|")], [b for b in blocks if b.startswith("|")]


def _shown(record: Record, notes: Sequence[str], tables: Sequence[str]) -> str:
    """What it is of, where it is from, its tables."""
    words = [note for note in notes if not note.startswith("![")]
    pictures = [note for note in notes if note.startswith("![")]
    paragraph = "\n".join([f"{record['title'].rstrip('.')}. {' '.join(words)}".strip(), source(record)])
    return "\n\n".join([paragraph, *tables, *([" ".join(pictures)] if pictures else [])])


def _each(of: Sequence[Record]) -> str:
    """Record by record."""
    return "\n\n".join(_shown(record, *_parts(record)) for record in of)


def _first(of: Sequence[Record]) -> str:
    """The first note and the first table of each."""
    found = [(record, *_parts(record)) for record in of]
    return "\n\n".join(_shown(record, notes[:1], tables[:1]) for record, notes, tables in found)


def _turned(of: Sequence[Record]) -> str:
    """The last table of each, which is of the end, its rows as columns."""
    found = [(record, *_parts(record)) for record in of]
    return "\n\n".join(_shown(record, notes, [transposed(tables[-1])]) for record, notes, tables in found)


def transposed(table: str) -> str:
    """A table with its rows as columns."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.split("\n")]
    columns, *rows = [list(cells) for cells in zip(lines[0], *lines[2:], strict=True)]
    return markdown(columns, rows)


def _words(of: Sequence[Record]) -> str:
    """No table where a picture shows the same."""
    found = [(record, *_parts(record)) for record in of]
    return "\n\n".join(
        _shown(record, notes, [] if any(note.startswith("![") for note in notes) else tables)
        for record, notes, tables in found
    )


def _joined(of: Sequence[Record]) -> str:
    """One table of records whose columns are the same."""
    parts = [_parts(record) for record in of]
    heads = {tables[0].split("\n")[0] for _, tables in parts}
    if len(heads) > 1:
        return _each(of)
    head = parts[0][1][0].split("\n")[:2]
    rows = [row for _, tables in parts for row in tables[0].split("\n")[2:]]
    about = "\n".join(f"{number}. {_shown(r, parts[number - 1][0], [])}" for number, r in enumerate(of, 1))
    whole = "\n".join([*head, *rows])
    return f"{about}\n\n{abreast(whole) if len(rows) > LONG else whole}"


def _abreast(of: Sequence[Record]) -> str:
    """Record by record, two rows side by side."""
    found = [(record, *_parts(record)) for record in of]
    return "\n\n".join(_shown(record, notes, [abreast(table) for table in tables]) for record, notes, tables in found)


def abreast(table: str) -> str:
    """A table with its second half beside the first."""
    start, line, *rows = table.split("\n")
    half, empty = -(-len(rows) // 2), "|" + " |" * (start.count("|") - 1)
    right = [*rows[half:], *[empty] * (2 * half - len(rows))]
    rows = [a + b[1:] for a, b in zip(rows[:half], right, strict=True)]
    return "\n".join([start + start[1:], line + line[1:], *rows])


# --- sections with tables of their own ---


def _jobs(of: Sequence[Record]) -> str:
    """Main jobs side by side."""
    rows = []
    for number, record in enumerate(of, 1):
        f = record["figures"]
        job = f"{number}: {f['system']}, {f['preset']}, seed {f['seed']}"
        job += f", {f['objective']}" if f.get("objective", "auto") != "auto" else ""
        torsions = [t["rms_df"] for t in f["torsions"].values()]
        rows.append(
            [
                *(job, f"{f['seconds'] / 60:.0f} min", f"{f['evaluations']:.3g}", f"{100 * f['ess']:.1f}"),
                *(f"{100 * f['ess_clipped']:.1f}", f"{f['khat']:.2f}"),
                *_phi_positive(f),
                ", ".join(f"{rms:.2f}" for rms in torsions) or "none",
            ]
        )
    columns = [
        *("run", "training", "target evaluations", "raw ESS, %", "clipped, %", "k-hat"),
        *("ΔF(φ > 0) / kT", "reference", "rms of F(φ), F(ψ) / kT"),
    ]
    samples = ", ".join(sorted({f"{record['figures']['samples']:,}" for record in of}))
    return "\n\n".join(
        [
            markdown(columns, rows),
            f"Without MD data, {samples} samples; all time counts, that of compiling too. "
            + ". ".join(f"{number}: {source(record)}" for number, record in enumerate(of, 1))
            + ".",
            f"![Raw ESS against time and target evaluations](figures/{CURVES})",
        ]
    )


def _phi_positive(f: dict[str, Any]) -> tuple[str, str]:
    """dF of phi > 0 with its error, of every residue where there is no reference; and the reference's."""
    if "phi" in f:
        return ", ".join(f"{row['df']:.2f} ± {row['df_error']:.2f}" for row in f["phi"].values()) or "no φ", "none"
    own, given = (f"{f[key]:.2f} ± {f[f'{key}_error']:.2f}" for key in ("basin_df", "basin_df_reference"))
    return own, given


def _largest(of: Sequence[Record]) -> str:
    """Of a long table its last row: the largest deviations."""
    (record,) = of
    if "figures" in record:
        largest, count = record["figures"]["largest"], len(record["figures"]["systems"])
        cells = [f"{largest[key]:.1e}" for key in ("energy", "relative", "force")]
    else:
        rows = record["tables"][0]["rows"]
        cells, count = rows[-1][-3:], len(rows) - 1
    columns = ["", "energy, kJ/mol", "energy, relative", "force, relative"]
    return _shown(record, _parts(record)[0], [markdown(columns, [[f"largest of {count} systems", *cells]])])


def _annealing(of: Sequence[Record]) -> str:
    """The tables of both flows side by side."""
    (record,) = of
    if "figures" in record:
        return _each(of)
    training, shipped = record["tables"]
    columns = [training["columns"][0], *(f"in training: {c}" for c in training["columns"][1:4])]
    columns += [f"shipped: {c}" for c in shipped["columns"][1:4]]
    rows = [[*a[:4], *b[1:4]] for a, b in zip(training["rows"], shipped["rows"], strict=True)]
    half = -(-len(rows) // 2)  # two rows side by side
    right = [*rows[half:], *[[""] * len(columns)] * (2 * half - len(rows))]
    pairs = [a + b for a, b in zip(rows[:half], right, strict=True)]
    return _shown(record, record["notes"], [markdown(columns + columns, pairs)])


def _free_energies(of: Sequence[Record]) -> str:
    """One table of all estimates in kT."""
    if any("figures" in record for record in of):
        return _each(of)
    rows, sources = [], []
    for number, record in enumerate(of, 1):
        question = record["title"].removeprefix("Free energies: ").rstrip(".")
        (table,) = record["tables"]
        rows += [[f"{number}: {question}", *(row + ["", ""])[:4]] for row in table["rows"]]
        sources.append(f"{number}: {source(record)}. {' '.join(record['notes'])}".replace("\n", "; "))
    table = markdown(["", "estimate", "ΔF / kT", "effective samples", "k-hat"], rows)
    return abreast(table) + "\n\n" + " ".join(sources)


def _faults(of: Sequence[Record]) -> str:
    """A row a group of modules."""
    rows = [
        [", ".join(f"`{m}`" for m in f["modules"]), str(f["mutants"]), str(f["tried"]), str(f["killed"])]
        for f in (record["figures"] for record in of)
    ]
    sources = "\n".join(sorted({source({**record, "command": "python -m benchmarks mutation"}) for record in of}))
    return f"{sources}\n\n{transposed(markdown(['modules', 'possible faults', 'tried', 'noticed'], rows))}"


# --- the command ---


def draw(found: dict[str, Record]) -> None:
    """Learning curves of all main jobs, raw ESS against minutes and against target evaluations."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    for name, record in found.items():
        if not name.startswith("main_job_"):
            continue
        curve, title = record["figures"]["curve"], record["title"].partition(":")[0]
        ess = [100 * point["ess"] for point in curve]
        axes[0].semilogx([point["seconds"] / 60 for point in curve], ess, label=title)
        axes[1].semilogx([point["evaluations"] for point in curve], ess)
    axes[0].set(xlabel="training, minutes", ylabel="raw ESS of the flow, %", ylim=(0, 100))
    axes[1].set(xlabel="target evaluations")
    figure.legend(loc="outside lower center", ncols=2, fontsize=7)
    figure.savefig(records.FIGURES / CURVES, dpi=110)


def main(arguments: Sequence[str]) -> None:
    """`python -m benchmarks page`."""
    argparse.ArgumentParser("python -m benchmarks page", description=__doc__).parse_args(arguments)
    found = records.read()
    draw(found)
    write()
    write_readme(found)
    COSTS.write_text(costs(found), "utf-8")
    print(f"{records.PAGE}: {len(found)} records, {len(records.PAGE.read_text('utf-8').splitlines())} lines")
