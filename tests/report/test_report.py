"""The report: its verdicts in words, that it needs nothing from elsewhere, and what a real browser makes of it."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from ensembles import butane, flat, flow, two_basins

from openmm_fab.comparison.comparing import compare
from openmm_fab.ensemble.pictures import draw_structures
from openmm_fab.report import figures, html
from openmm_fab.report.html import end_reloading, report_html, write_report
from openmm_fab.report.page import RELOAD
from openmm_fab.report.viewer import ngl_library
from openmm_fab.report.words import findings, training_findings, usable
from openmm_fab.tools.install import install

CHROMIUM = next((p for name in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(name))), None)
NODE = shutil.which("node")
METRICS = [
    {"iteration": i, "evaluations": 512 * i, "seconds": 1.5 * i, "ess_ais": 0.3, "acceptance": 0.6, "step_size": 0.1}
    | ({"ess": 0.01 * i, "outside_weight": 0.001, "annealed_outside": 0.03} if i % 10 == 0 else {})
    for i in range(1, 31)
]


def pareto(k: float, n: int = 20_000, seed: int = 0) -> np.ndarray:
    """Log weights whose tail has the shape k: u^-k of uniform u."""
    return -k * np.log(np.random.default_rng(seed).random(n))


@pytest.mark.parametrize(
    "k, grade, words",
    [(0.2, "good", ": reliable"), (0.6, "care", "usable, errors are underrated"), (0.95, "bad", ": do not use")],
)
def test_khat_in_words(k, grade, words) -> None:
    log_w = pareto(k)
    first = findings(flat(len(log_w), log_w=log_w))[0]
    assert first.grade == grade and words in first.head
    assert abs(float(re.search(r"k-hat ([\d.]+)", first.head)[1]) - k) < 0.1


def test_ess_in_words() -> None:
    # A share s of the samples has all the weight: ESS is s n, whatever the others are.
    def ess(share: float, n: int = 50_000):
        log_w = np.where(np.arange(n) < share * n, 0.0, -60.0)
        return next(f for f in findings(flat(n, log_w=log_w)) if f.head.startswith("ESS"))

    low = ess(0.003)
    assert (low.grade, low.head) == ("bad", "ESS 0.3 %, 150 of 50,000: do not use")
    assert low.because.startswith("Because only one sample in 333 counts")
    assert ess(0.05).grade == "care"
    assert (ess(0.4).grade, ess(0.4).head) == ("good", "ESS 40 %, 20,000 of 50,000: good")
    few = ess(0.3, n=200)
    assert few.grade == "bad" and "fewer than 100 effective samples" in few.because


def test_equal_weights_of_the_few_that_have_one_are_no_good() -> None:
    n = 4000
    found = findings(flat(n, log_w=np.r_[0.0, np.full(n - 1, -np.inf)], invalid=n - 1))
    assert [f.grade for f in found] == ["good", "bad", "care"] and found[0].head == "1 frames of equal weight"
    assert usable(found).head == "Do not use these numbers yet."
    assert [f.grade for f in findings(flat(n, log_w=np.zeros(n)))] == ["good"]


def test_the_other_findings() -> None:
    n = 1000
    log_w = np.zeros(n)
    log_w[0], log_w[1:100] = np.log(500.0), -np.inf
    found = {f.head: f for f in findings(flat(n, log_w=log_w, invalid=99), metrics=METRICS)}
    heaviest = next(f for head, f in found.items() if head.startswith("The heaviest"))
    assert heaviest.grade == "bad" and "36 %" in heaviest.head  # 500 / (500 + 900)
    assert found["99 of 1,000 samples have no finite energy"].grade == "care"
    # The larger of the flow's own share and the annealed structures'.
    assert found["3.0 % of the weight lies beyond the splines' range"].grade == "care"
    assert found["No reference to compare with"].grade == "care"
    assert usable(list(found.values())).head == "Do not use these numbers yet."


def test_few_iterations_come_first() -> None:
    rows = [{"iteration": i, "seconds": 40.0 + 2.0 * i, "spent": (40.0 + 2.0 * i) / 60} for i in range(1, 11)]
    first = findings(flow(1000, seed=0), None, metrics=rows)[0]
    assert (first.grade, first.head) == ("bad", "10 iterations: too few to learn from")
    assert "--minutes 34 or more" in first.because  # 1000 of 2 s; what the first one took besides is not counted
    (one,) = training_findings(rows[:1])
    assert one.head == "1 iteration: too few to learn from" and "--minutes 700" in one.because
    enough = [{"iteration": 50, "seconds": 60.0, "spent": 1.0}]
    assert training_findings(enough) == [] == training_findings([])


def test_a_training_that_annealed_nothing_is_told() -> None:
    last = {"iteration": 500, "seconds": 60.0, "spent": 1.0}
    (found,) = training_findings([{**last, "ess_ais": None}, {**last, "ess_ais": math.nan}])
    assert (found.grade, found.head) == ("care", "Nothing was annealed")
    assert training_findings([{**last, "ess_ais": 0.3}, {**last, "ess_ais": None}]) == []
    assert training_findings([{**last, "ess_ais": None}], audited=True) == [], "walkers looked for what was lost"


def test_weights_that_stayed_tempered_are_told() -> None:
    row = {"iteration": 500, "seconds": 60.0, "spent": 1.0, "ess_ais": 0.05}
    (found,) = training_findings([{**row, "lam": 1.0}] * 3 + [{**row, "lam": 0.4}] * 10)
    assert found.grade == "care" and "power 0.4" in found.head
    late = [{**row, "lam": 0.4}] * 9 + [{**row, "lam": 1.0}] * 6
    assert training_findings(late) == []
    # Powers of steps that annealed nothing are another matter.
    plain = [{**row, "lam": 0.4, "ess_ais": None}] * 20
    assert training_findings([{**row, "lam": 1.0}, *plain]) == []


def test_a_long_set_up_is_told() -> None:
    last = {"iteration": 100, "seconds": 30.0, "spent": 0.5}  # of a minute

    def told(*setups: float) -> list[str]:
        rows = [{"iteration": 1, "seconds": 1.0, "spent": 0.01, "setup": s} for s in setups]
        return [f"{f.grade} {f.head}" for f in training_findings([*rows, last])]

    assert told(12.0) == [] and told() == []
    assert told(13.0) == ["good Set-up took 13 s, besides the 60 s of training"]
    assert told(7.0, 7.0) == ["good Set-up took 14 s, besides the 60 s of training"]  # of a run that was resumed


def test_agreement_and_contradiction() -> None:
    reference = two_basins(6000, 0.1, seed=2, name="md")
    agree = findings(flow(6000, seed=1), compare(flow(6000, seed=1), reference, n_bootstrap=40))[-1]
    assert agree.grade == "good" and "do not contradict md" in agree.head
    unweighted = two_basins(6000, 0.4, seed=1)
    unweighted = replace(unweighted, log_w=0.1 * np.random.default_rng(3).normal(size=6000))
    apart = findings(unweighted, compare(unweighted, reference, n_bootstrap=40))[-1]
    assert apart.grade == "bad" and "phi > 0 ALA2" in apart.because and "torsions contradict md" in apart.head


def test_a_missing_basin_is_a_contradiction() -> None:
    reference = two_basins(6000, 0.1, seed=2, name="md")
    blind = two_basins(6000, 0.0, seed=1)
    blind = replace(blind, log_w=0.1 * np.random.default_rng(3).normal(size=6000))
    comparison = compare(blind, reference, n_bootstrap=40)
    last = findings(blind, comparison)[-1]
    assert last.grade != "good" and "phi > 0 ALA2" in last.because
    assert '<td class="bad">✗ basin missing' in report_html(blind, comparison)


def test_a_basin_that_neither_side_visits_contradicts_nothing() -> None:
    few = two_basins(6000, 0.0005, seed=1)
    few = replace(few, log_w=0.1 * np.random.default_rng(3).normal(size=6000))
    comparison = compare(few, two_basins(6000, 0.0005, seed=2, name="md"), n_bootstrap=40)
    last = findings(few, comparison)[-1]
    assert "missing: phi" not in last.because and "Not judged: phi > 0 ALA2" in last.because


def test_nothing_judged_is_not_good() -> None:
    """One block has no error bar: whatever the difference, nobody can say."""
    reference = two_basins(3000, 0.4, seed=2, name="md", block=np.zeros(3000, dtype=int))
    last = findings(flow(3000, seed=1), compare(flow(3000, seed=1), reference, n_bootstrap=30))[-1]
    assert last.grade == "care" and last.head == "Nothing could be judged"


def test_another_energy_is_seen_where_torsions_agree() -> None:
    ours, reference = flow(4000, seed=1), two_basins(4000, 0.1, seed=2, name="md")
    noise = np.random.default_rng(0).normal(size=(2, 4000))
    ours, reference = replace(ours, u=noise[0] + 10.0), replace(reference, u=noise[1])
    last = findings(ours, compare(ours, reference, n_bootstrap=30))[-1]
    assert last.grade == "care" and "u disagree" in last.head


def test_energies_above_the_cut_are_a_card() -> None:
    rows = [*METRICS, {"iteration": 3, "annealed_above_cut": 0.3}]
    (found,) = (f for f in findings(flow(1000, seed=0), None, metrics=rows) if "energy cut" in f.head)
    assert found.grade == "care" and "30 %" in found.head
    assert not any("energy cut" in f.head for f in findings(flow(1000, seed=0), None, metrics=METRICS))


def test_a_few_equal_weights_among_zeros_are_no_plain_md() -> None:
    n = 1000
    found = findings(flat(n, log_w=np.r_[0.0, np.full(n - 1, -np.inf)]))
    assert any(f.grade == "bad" for f in found)


def test_a_basin_that_neither_side_visits_is_marked_with_care() -> None:
    few = two_basins(6000, 0.0005, seed=1)
    few = replace(few, log_w=0.1 * np.random.default_rng(3).normal(size=6000))
    comparison = compare(few, two_basins(6000, 0.0005, seed=2, name="md"), n_bootstrap=40)
    assert '<td class="care">! too few samples, no verdict' in report_html(few, comparison)


def test_weights_that_cannot_be_used_get_no_tick() -> None:
    """Distributions that lie near each other are not counted as agreement."""
    ours = flow(4000, seed=1)
    ours = replace(ours, log_w=ours.log_w + pareto(1.1, 4000))
    comparison = compare(ours, two_basins(4000, 0.1, seed=2, name="md"), n_bootstrap=30)
    last = findings(ours, comparison)[-1]
    assert (last.grade, last.head) == ("bad", "No verdict against md: the weights cannot be used")
    text = report_html(ours, comparison)
    assert '<td class="good">' not in text and "the weights cannot be used, no verdict</td>" in text


@pytest.fixture(scope="module")
def page() -> str:
    ensemble = flow(3000, seed=0)
    comparison = compare(ensemble, two_basins(3000, 0.1, seed=1, name="md"), n_bootstrap=30)
    settings = {"seed": 0, "name": "<b>&", "temperatures": [300.0, 400.0]}
    return report_html(ensemble, comparison, metrics=METRICS, settings=settings, title="my <run>")


class Parsed(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for key, value in attributes:
            self.links += [value or ""] if key in ("src", "href", "xlink:href", "srcset", "data") else []
            self.ids += [value or ""] if key == "id" else []


def test_the_page_needs_nothing_from_elsewhere(page) -> None:
    found = Parsed(page)
    assert found.links and all(link.startswith(("#", "data:")) for link in found.links)
    assert not re.search(r"url\((?!#)", re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL))
    assert "@import" not in page.split("</style>")[0]
    assert len(found.ids) == len(set(found.ids))
    assert set(link[1:] for link in found.links if link.startswith("#")) <= set(found.ids)
    assert found.tags.count("svg") >= 7


def test_the_page_says_what_it_should(page) -> None:
    assert "reload" not in page and "Early:" not in page
    assert '<a href="#glossary">' in page and "<dt>k-hat</dt>" in page
    assert "my &lt;run&gt;" in page and "my <run>" not in page and "&lt;b&gt;&amp;" in page
    assert "One flow of the temperatures 300, 400 K; this page is of 300 K." in page
    for words in ("k-hat", "ESS", "phi &gt; 0 ALA2", "agree within errors", "30 iterations, 15,360 energy evaluations"):
        assert words in page, words
    for title in (
        "Can these numbers be used?",
        "Basins",
        "Ramachandran plots",
        "Free energy along torsions",
        "Structures",
    ):
        assert f"<h2>{title}</h2>" in page, title


def test_an_early_page_reloads_until_the_run_ends(tmp_path) -> None:
    ensemble, path = flow(500, seed=0), tmp_path / "report.html"
    write_report(path, ensemble, metrics=METRICS, title="early", early="after 1.0 of 18 minutes of training")
    text = path.read_text()
    head = text.split("</header>")[0]
    assert "Early: after 1.0 of 18 minutes of training; while the run goes on" in head
    assert re.search(r'data-written="1\d{9}"', head) and text.count("location.reload()") == 1
    assert "http" not in head.split("<header>")[1]
    titles = [re.findall(r"<h2>.*?</h2>", report_html(ensemble, metrics=METRICS, early=early)) for early in ("", "now")]
    assert titles[0] == titles[1]  # nothing is left out but figures
    end_reloading(path)
    still = path.read_text()
    assert "Early: after 1.0 of 18 minutes" in still and "reload" not in still and still.endswith("</html>")
    assert len(text) - len(still) < 1200
    end_reloading(path)
    assert path.read_text() == still
    end_reloading(tmp_path / "none.html")
    assert not (tmp_path / "none.html").exists()


STAND_IN = """
let now = 1e6, reloads = 0, tick;
const heard = {}, place = { textContent: "" };
const document = { getElementById: () => ({ dataset: { written: "990" }, lastElementChild: place }) };
const window = { addEventListener: (kind, f) => { heard[kind] = f; } };
const location = { reload: () => { reloads += 1; } };
const setInterval = (f) => { tick = f; };
Date.now = () => now;
const seen = [];
const look = (seconds) => { now += 1000 * seconds; tick(); seen.push([place.textContent, reloads]); };
"""


@pytest.mark.skipif(NODE is None, reason="needs node")
def test_an_early_page_says_how_old_it_is_and_reloads_where_nobody_looks_around() -> None:
    script = RELOAD.removeprefix("<script>").partition("</script>")[0]
    use = "look(0); look(29); heard.pointermove(); look(29); look(60); console.log(JSON.stringify(seen));"
    done = subprocess.run([str(NODE), "-e", STAND_IN + script + use], capture_output=True, text=True, check=True)
    # Written 10 s before the page was opened; the pointer moved 29 s later.
    expected = [["10 s", 0], ["39 s", 0], ["68 s", 0], ["2 min", 1]]
    assert json.loads(done.stdout) == [[f"Written {age} ago.", reloads] for age, reloads in expected]


def test_an_early_page_has_the_figures_that_tell_most(monkeypatch) -> None:
    drawn: list[str] = []
    monkeypatch.setattr(figures, "svg", lambda name, label, draw: drawn.append(name) or "<svg></svg>")
    monkeypatch.setattr(html, "ngl_library", lambda: ("NGL", "a licence"))
    report_html(flow(500, seed=0), metrics=METRICS, early="after 1.0 of 18 minutes of training")
    assert drawn == ["rama0", "profile0", "profile1", "learning-ess"]
    monkeypatch.setattr(html, "ngl_library", lambda: ("", "nglview is not installed."))
    report_html(flow(500, seed=0), metrics=METRICS, early="after 1.0 of 18 minutes of training")
    assert drawn[4:] == ["rama0", "profile0", "profile1", "structures", "learning-ess"]


def test_the_figures_take_their_colours_from_the_page(page) -> None:
    drawings = re.findall(r"<svg role.*?</svg>", page, flags=re.DOTALL)
    assert len(drawings) >= 7
    assert all("var(--ink)" in drawing and "#010203" not in drawing for drawing in drawings)
    assert any("var(--reference)" in drawing for drawing in drawings)


def test_names_of_atoms_are_escaped() -> None:
    """Nucleosides have atoms such as O5" and O5'."""
    from openmm_fab.drawing import style
    from openmm_fab.report.figures import svg

    text = svg("name", 'F along O5"-<C>', lambda: style.new_figure(1.0, 1.0))
    assert 'aria-label="F along O5&quot;-&lt;C&gt;"' in text and text.count("<svg ") == 1


def test_structures_are_drawn_by_weight() -> None:
    ensemble = two_basins(400, 0.5, seed=0)
    heavy = np.flatnonzero(ensemble.phi()[:, 0] > 0)[:3]
    log_w = np.full(400, -30.0)
    log_w[heavy] = np.log([6.0, 3.0, 1.0])
    structures = draw_structures(replace(ensemble, log_w=log_w))
    assert structures.frame.tolist() == heavy.tolist()
    assert structures.share == pytest.approx([0.6, 0.3, 0.1], abs=0.026)
    assert structures.pdb.count("MODEL ") == 3 and structures.axes == ("phi ALA2", "psi ALA2")
    assert structures.angles[:, 0] == pytest.approx(ensemble.phi()[heavy, 0], abs=1e-4)
    assert "</" not in structures.to_json() and json.loads(structures.to_json())["frame"] == heavy.tolist()


def test_without_nglview_there_is_a_picture(monkeypatch) -> None:
    def files(name: str):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "files", files)
    text = report_html(flow(1000, seed=0))
    assert f"No 3-D viewer: nglview is not installed: {install('notebook')}, then" in unescape(text)
    assert "Superposed structures of the molecule" in text and "<script" not in text


def test_a_molecule_without_phi_and_without_reference() -> None:
    ensemble = butane(500, 0.2, seed=0)
    text = report_html(replace(ensemble, log_w=0.1 * np.random.default_rng(0).normal(size=500)))
    assert "Ramachandran plots" not in text and "Free energy along C1-C2-C3-C4" in text
    assert "No reference to compare with" in text


# Counts what the viewer drew, clicks a point of the map, and asks how wide the page is; writes it all into the title.
ASK = """
const page = document.getElementById("page");
async function ask() {
  const inside = page.contentDocument, root = inside.documentElement;
  while (!root.dataset.viewer) await new Promise((done) => setTimeout(done, 50));
  const found = { viewer: root.dataset.viewer, wide: root.scrollWidth, errors: window.errors };
  const stage = page.contentWindow.stage;
  if (stage) {
    const bitmap = await createImageBitmap(await stage.makeImage({ factor: 1 }));
    const canvas = new OffscreenCanvas(bitmap.width, bitmap.height), paint = canvas.getContext("2d");
    paint.drawImage(bitmap, 0, 0);
    const pixels = paint.getImageData(0, 0, bitmap.width, bitmap.height).data;
    found.pixels = 0;
    for (let i = 0; i < pixels.length; i += 4) if (pixels[i] + pixels[i + 1] + pixels[i + 2] < 740) found.pixels++;
    const before = inside.getElementById("chosen").textContent;
    inside.querySelector("#map circle[aria-label^='Structure 4 ']").dispatchEvent(new MouseEvent("click"));
    found.clicked = [before, inside.getElementById("chosen").textContent];
  }
  document.body.dataset.found = JSON.stringify(found);
}
window.errors = [];
page.addEventListener("load", () => {
  page.contentWindow.addEventListener("error", (event) => window.errors.push(String(event.message)));
  ask().catch((error) => { document.body.dataset.found = JSON.stringify({ failed: String(error) }); });
});
"""


def browse(folder: Path, *options: str) -> tuple[dict, str]:
    """What ASK finds in folder/report.html in a window 380 pixels wide, and what the console says."""
    (folder / "ask.html").write_text(
        '<!doctype html><body><iframe id="page" src="report.html" style="width:380px;height:900px;border:0"></iframe>'
        f"<script>{ASK}</script></body>"
    )
    for _ in range(3):  # on a busy machine its graphics process now and then comes too late
        shown = subprocess.run(
            [
                *(
                    str(CHROMIUM),
                    "--headless=new",
                    "--no-sandbox",
                    "--use-angle=swiftshader",
                    "--enable-unsafe-swiftshader",
                ),
                *(
                    "--allow-file-access-from-files",
                    "--enable-logging=stderr",
                    "--virtual-time-budget=300000",
                    "--dump-dom",
                ),
                *(f"--user-data-dir={folder / 'profile'}", *options, (folder / "ask.html").as_uri()),
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        match = re.search(r'data-found="(.*?)"', shown.stdout)
        if match:
            break
    assert match, shown.stdout[-2000:] + shown.stderr[-2000:]
    console = "\n".join(line for line in shown.stderr.splitlines() if "CONSOLE" in line)
    return json.loads(match[1].replace("&quot;", '"').replace("&amp;", "&")), console


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome on this machine")
def test_in_a_browser(tmp_path) -> None:
    if not ngl_library()[0]:
        pytest.skip(ngl_library()[1])
    ensemble = flow(1000, seed=0)
    write_report(tmp_path / "report.html", ensemble, metrics=METRICS, title="browser")
    found, console = browse(tmp_path)
    assert found["viewer"] == "drawn" and found["errors"] == []
    assert not re.search(r"Uncaught|Refused|Failed|ERR_", console), console
    assert found["pixels"] > 1000  # atoms and bonds on the white canvas
    assert found["clicked"][0].startswith("Structure 1 of") and found["clicked"][1].startswith("Structure 4 of")
    assert found["wide"] <= 380


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome on this machine")
def test_in_a_browser_without_webgl(tmp_path) -> None:
    write_report(tmp_path / "report.html", flow(1000, seed=0), title="no WebGL")
    found, console = browse(tmp_path, "--disable-3d-apis")
    assert found["viewer"] == "picture" and found["errors"] == [] and found["wide"] <= 380
    assert "Uncaught" not in console
