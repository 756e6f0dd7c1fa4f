"""What a training shows and keeps: the bar's words, metrics as JSON lines, the live plot of a notebook."""

from __future__ import annotations

import io
import json
import math
import sys
import threading
import time
import tracemalloc
from types import SimpleNamespace

import pytest
from ensembles import butane, flow

from openmm_fab.plots import PLOT_SAMPLES, training_figures
from openmm_fab.tools import progress
from openmm_fab.tools.activity import doing
from openmm_fab.tools.progress import History, LivePlot, Ticking, TrainingBar, bar, duration, dynamics_bar, hide_bars
from openmm_fab.tools.run_log import RunLog

INFO = {
    **{"iteration": 1, "loss": 1.5, "ess_flow": 0.25, "ess_ais": 0.5, "acceptance": 0.65, "evaluations": 1000},
    **{"seconds": 2.0, "spent": 0.3},
}


def shown(*infos: dict, monkeypatch: pytest.MonkeyPatch) -> str:
    stream = io.StringIO()
    clock = iter([10.0, 14.0, 20.0])
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(clock))
    with TrainingBar() as bar:
        for info in infos:
            bar.update(info)
        return str(bar._bar.postfix)


def test_the_bar(monkeypatch) -> None:
    text = shown(INFO, INFO | {"evaluations": 5000, "basin_df": 5.9}, monkeypatch=monkeypatch)
    # 4,000 evaluations in the 4 s between the two.
    for words in ("loss 1.50", "flow 25.0 %", "AIS 50.0 %", "acceptance 65 %", "5e+03 evaluations, 1,000/s", "5.9 kT"):
        assert words in text


def tickers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "ticker"]


@pytest.mark.parametrize("kind", [TrainingBar, lambda show=True: Ticking("training", show)])
def test_the_clock_ticks_and_says_what_goes_on(kind, monkeypatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(progress, "TICK", 0.02)
    with kind():
        with doing("compiling C, a few seconds"):
            time.sleep(0.3)
        drawn = stream.getvalue()
        assert drawn.count("compiling C, a few seconds") > 3
        time.sleep(0.2)
        assert "training" in stream.getvalue()[len(drawn) :]
    ended = stream.getvalue()
    time.sleep(0.1)
    assert stream.getvalue() == ended and not tickers()


@pytest.mark.parametrize("kind", [TrainingBar, lambda show=True: Ticking("training", show)])
def test_a_ticking_bar_ends_with_an_error_and_is_silent_where_it_is_not_shown(kind, monkeypatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(progress, "TICK", 0.01)
    for error in (KeyboardInterrupt, ValueError):
        with pytest.raises(error), kind():
            assert len(tickers()) == 1
            raise error
        assert not tickers()
    before = stream.getvalue()
    with kind(show=False), doing("compiling"):
        assert not tickers()
        time.sleep(0.05)
    assert stream.getvalue() == before


def test_a_terminal_that_is_gone_ends_the_ticks_only(monkeypatch) -> None:
    monkeypatch.setattr(progress, "TICK", 0.01)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with TrainingBar() as bar:
        monkeypatch.setattr(bar._bar, "refresh", lambda: 1 / 0)
        bar._ticker._thread.join(5.0)
        assert not tickers()


def test_lines_above_the_bar(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    for show in (True, False):
        with TrainingBar(show) as bar:
            bar.say("Set-up: 6 s")
    assert capsys.readouterr().out == "Set-up: 6 s\n"


def test_the_bar_stands_at_the_share_of_the_budget(monkeypatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    got: list[tuple[float, bool]] = []
    plot = SimpleNamespace(add=lambda info, last: got.append((info["spent"], last)))
    with TrainingBar(True, plot) as bar:  # type: ignore[arg-type]
        for spent in (0.25, 1.5):
            bar.update(INFO | {"spent": spent})
            assert bar._bar.n == pytest.approx(min(100.0, 100 * spent))
    assert got == [(0.25, False), (1.5, True)]


@pytest.mark.parametrize(
    "seconds, words", [(119.0, "119 s"), (121.0, "2 min"), (7199.0, "120 min"), (7201.0, "2.0 h"), (9000.0, "2.5 h")]
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_the_bar_leaves_out_what_an_objective_does_not_look_at(monkeypatch) -> None:
    text = shown(INFO | {"ess_ais": math.nan, "acceptance": math.nan}, monkeypatch=monkeypatch)
    assert "AIS" not in text and "acceptance" not in text and "nan" not in text and "/s" not in text


def test_json_lines(tmp_path) -> None:
    with RunLog(tmp_path) as log:
        log.write(INFO | {"ess_ais": math.nan})
    with RunLog(tmp_path, after=1) as log:
        log.write(INFO | {"iteration": 2})
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["iteration"] for row in rows] == [1, 2] and rows[0]["ess_ais"] is None and rows[1]["ess_ais"] == 0.5


def test_tensorboard_holds_what_the_json_lines_hold(tmp_path) -> None:
    """Of every tenth iteration and of those that were evaluated. Resumed after iteration 30, it forgets the later ones
    of the run that was killed; begun anew, everything."""
    loading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

    def scalars(after: int | None, losses: dict[int, float]) -> dict[int, float]:
        with RunLog(tmp_path, after) as log:
            for iteration, loss in losses.items():
                log.write(INFO | {"iteration": iteration, "loss": loss, "ess_ais": math.nan})
        found = loading.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
        assert "ess_ais" not in found.Tags()["scalars"]  # it was never finite
        rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
        shown = {event.step: event.value for event in found.Scalars("loss")}
        assert shown == {row["iteration"]: row["loss"] for row in rows if row["iteration"] % 10 == 0 or "ess" in row}
        return shown

    assert scalars(None, {10: 5.0, 20: 4.0, 25: 4.0, 30: 3.0, 40: 9.0}) == {10: 5.0, 20: 4.0, 30: 3.0, 40: 9.0}
    assert scalars(30, {40: 2.0}) == {10: 5.0, 20: 4.0, 30: 3.0, 40: 2.0}
    assert scalars(None, {10: 7.0}) == {10: 7.0}
    with RunLog(tmp_path) as log:
        log.write(INFO | {"iteration": 1, "ess": 0.5})
    found = loading.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in found.Scalars("ess")] == [(1, 0.5)]


def test_weights_and_biases_only_where_it_is_asked_for(tmp_path, monkeypatch) -> None:
    calls: list[tuple] = []
    run = SimpleNamespace(log=lambda row, step: calls.append((row, step)), finish=lambda: calls.append(("finish",)))
    started: list[dict] = []
    module = SimpleNamespace(init=lambda **about: (started.append(about), run)[1])
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    with RunLog(tmp_path / "run") as log:
        log.write(INFO)
    assert not started and not (tmp_path / "run" / "wandb_id").exists()

    monkeypatch.setenv("WANDB_PROJECT", "peptides")
    for resume in (False, True):
        with RunLog(tmp_path / "run", 1 if resume else None) as log:
            log.write(INFO | {"ess_ais": math.nan})
    assert started[0] == started[1] and (started[0]["project"], started[0]["name"]) == ("peptides", "run")
    assert calls[0][1] == 1 and "ess_ais" not in calls[0][0] and calls[0][0]["loss"] == 1.5 and calls[1] == ("finish",)

    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match="pip install wandb"):
        RunLog(tmp_path / "run")


@pytest.fixture
def notebook(monkeypatch) -> list[tuple[int, object]]:
    """Stands in for a notebook; holds (place, figure) of everything that is drawn."""
    IPython = pytest.importorskip("IPython")
    drawn: list[tuple[int, object]] = []

    def display(figure: object, display_id: bool) -> SimpleNamespace:
        assert display_id
        place = len(drawn)
        drawn.append((place, figure))
        return SimpleNamespace(update=lambda new: drawn.append((place, new)))

    monkeypatch.setattr(IPython, "get_ipython", lambda: object())
    monkeypatch.setattr("IPython.display.display", display)
    return drawn


def test_the_live_plot_is_drawn_in_place(notebook) -> None:
    asked = []

    def sample(n: int):
        asked.append(n)
        return flow(n, seed=0)

    live = LivePlot(lambda history: training_figures(history, sample), every=1000.0)
    for k in range(1, 6):
        live.add(INFO | {"iteration": k, "evaluations": 100 * k}, last=k == 5)
    # Drawn at the first iteration and the last: curves, then the Ramachandran plots, each in its place.
    assert [place for place, _ in notebook] == [0, 1, 0, 1] and asked == [PLOT_SAMPLES] * 2
    curves, rama = notebook[2][1], notebook[3][1]
    assert len(curves.axes[0].lines[0].get_xdata()) == 5
    assert [ax.get_title() for ax in rama.axes[:2]] == ["flow", "reweighted"]


def test_a_molecule_without_phi_has_curves_only(notebook) -> None:
    LivePlot(lambda history: training_figures(history, lambda n: butane(n, 0.2, seed=0))).add(INFO)
    assert len(notebook) == 1


def test_a_plot_that_fails_does_not_end_the_training(notebook) -> None:
    def broken(history: History):
        raise ValueError("no samples")

    live = LivePlot(broken, every=0.0)
    with pytest.warns(UserWarning, match="The live plot stops: ValueError: no samples"):
        live.add(INFO)
    live.add(INFO, last=True)
    assert len(live.history) == 2 and not notebook


def test_outside_of_a_notebook_it_says_so() -> None:
    with pytest.raises(ImportError, match="needs a notebook"):
        LivePlot(lambda history: [])


def test_a_history_is_what_a_list_of_dicts_would_be() -> None:
    rows: list[dict[str, float]] = [
        {"iteration": 1, "loss": 0.5, "ess": math.nan},
        {"iteration": 2, "loss": -math.inf, "ess": 0.25, "khat": 0.1, "lost_basins": 0.0},
        {"iteration": 3_000_000_000, "loss": 1e-300, "ess": 1.0},
    ]
    history = History()
    assert len(history) == 0 and not history and repr(history) == "History(no iterations)"
    for row in rows:
        history.append(row)
    assert repr(list(history)) == repr(rows)  # nan, and whole numbers that stay so
    assert repr(history[-1]) == repr(rows[-1]) and history[1:] == rows[1:] and history[::-2][0] == rows[2]
    assert [h["khat"] for h in reversed(history) if "khat" in h] == [0.1]
    assert repr(history).startswith(f"History({len(rows)} iterations") and len(repr(history)) < 120
    for index in (3, -4):
        with pytest.raises(IndexError):
            history[index]
    with pytest.raises(ValueError):
        history.append({"iteration": 4, "loss": "low", "ess": 1.0})
    assert repr(list(history)) == repr(rows)


def test_a_history_whose_first_iteration_had_more() -> None:
    """As where compiling took so long that the first iteration is evaluated at once."""
    rows = [{"iteration": 1, "loss": 0.5, "n": 4, "ess": 0.1}, {"iteration": 2, "loss": 0.4}, {"loss": 1.0, "ess": 0.2}]
    history = History()
    for row in rows:
        history.append(row)
    assert list(history) == rows
    assert isinstance(history[0]["n"], int) and isinstance(history[1]["iteration"], int)


def test_a_long_history_takes_little_memory() -> None:
    tracemalloc.start()
    history = History()
    for k in range(5000):
        history.append({f"metric {i}": k + i / 7 for i in range(20)})
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grown < 250 * 5000  # bytes; dicts take over 1,000 each


def test_dynamics_are_shown_in_ps_with_their_speed() -> None:
    """Of 2 copies and items of 0.5 ps: ns/day is 86.4 times ps/s, of both together."""
    shown = dynamics_bar(range(5), "langevin", 0.5, copies=2)
    for _ in shown:
        time.sleep(0.02)
    found = shown.format_dict
    rate = found["rate"] or found["n"] / found["elapsed"]
    assert (found["unit"], found["unit_scale"], found["n"]) == ("ps", 0.5, 5)
    assert rate < 50 and found["postfix"] == f"{86.4 * rate * 0.5 * 2:.3g} ns/day"


def test_bars_can_be_hidden(capsys) -> None:
    try:
        hide_bars()
        assert list(bar(range(3), "sampling", unit="samples")) == [0, 1, 2] and list(
            dynamics_bar(range(3), "md", 1.0)
        ) == [0, 1, 2]
        with Ticking("set-up"):
            pass
        assert capsys.readouterr() == ("", "")
    finally:
        hide_bars(False)
    list(bar(range(3), "sampling", unit="samples", size=256))
    shown = capsys.readouterr().err
    assert "sampling" in shown and "/768 [" in shown and "samples/s]" in shown
