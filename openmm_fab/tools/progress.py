"""Progress bars, live plots, metrics in memory, and durations in words.

Metrics are dicts of numbers, one for each iteration of a training: `metrics`.
"""

from __future__ import annotations

import math
import threading
import time
from array import array
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

from tqdm.auto import tqdm

from .activity import current
from .install import install
from .metrics import TrainingMetrics
from .warn import warn

if TYPE_CHECKING:
    from matplotlib.figure import Figure


T = TypeVar("T")
NS_PER_DAY = 86.4  # a ps/s
PLOT_EVERY = 20.0  # s
TICK = 1.0  # s, between drawings of a bar where nothing happens


class History(Sequence[TrainingMetrics]):
    """Sequence of the `TrainingMetrics` of all iterations, by column, in a fifth of the memory of a list of dicts.

    Numbers that every iteration has are kept in columns; what only some have, by the iteration.
    """

    def __init__(self) -> None:
        self._columns: dict[str, array[float]] = {}
        self._whole: dict[str, bool] = {}  # is a column of integers?
        self._besides: dict[int, dict[str, Any]] = {}
        self._length = 0

    def append(self, info: Mapping[str, Any]) -> None:
        if not self._length:
            self._columns = {key: array("d") for key in info}
            self._whole = {key: isinstance(value, int) for key, value in info.items()}
        for key in self._columns.keys() - info.keys():  # the first iteration had more than this one
            for k, value in enumerate(self._columns.pop(key)):
                self._besides.setdefault(k, {})[key] = int(value) if self._whole[key] else value
        values = [float(info[key]) for key in self._columns]  # before anything is kept: a row is whole or not there
        for column, value in zip(self._columns.values(), values, strict=True):
            column.append(value)
        besides = {key: value for key, value in info.items() if key not in self._columns}
        if besides:
            self._besides[self._length] = besides
        self._length += 1

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> TrainingMetrics: ...
    @overload
    def __getitem__(self, index: slice) -> list[TrainingMetrics]: ...
    def __getitem__(self, index: int | slice) -> TrainingMetrics | list[TrainingMetrics]:
        if isinstance(index, slice):
            return [self[k] for k in range(self._length)[index]]
        k = range(self._length)[index]
        row = {key: int(c[k]) if self._whole[key] else c[k] for key, c in self._columns.items()}
        return cast(TrainingMetrics, row | self._besides.get(k, {}))

    def __repr__(self) -> str:
        if not self._length:
            return "History(no iterations)"
        last = self[-1]
        figures = (
            [f"ESS of the flow {100 * last['ess_flow']:.1f} %"] if math.isfinite(last.get("ess_flow", math.nan)) else []
        )
        parts = [f"{self._length} iterations", *([duration(last["seconds"])] if "seconds" in last else []), *figures]
        return f"History({', '.join(parts)}; a sequence of dicts)"


def duration(seconds: float) -> str:
    """Format seconds in words: "90 s", "18 min", "2.5 h"."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


class _Bars:
    hidden = False


def hide_bars(hide: bool = True) -> None:
    """Show no progress bar in this process from now on; or show them again, where they are asked for."""
    _Bars.hidden = hide


def hidden(show: bool) -> bool:
    """Whether a bar is not to be drawn: it is not asked for, or `hide_bars` was called."""
    return _Bars.hidden or not show


def say(line: str, show: bool = True) -> None:
    """Print a line of text above the bars, where bars are shown."""
    if not hidden(show):
        tqdm.write(line)


def bar(items: Iterable[T], label: str, show: bool = True, *, unit: str, size: int = 1) -> Iterable[T]:
    """Iterate with a progress bar that counts in `unit` ("samples"), `size` of them an item."""
    scale = size if size > 1 else False
    return tqdm(items, desc=label, disable=hidden(show), leave=False, unit=f" {unit}", unit_scale=scale)


class _DynamicsBar(tqdm):
    """A bar whose items are stretches of dynamics, with the speed in ns/day, of all copies together."""

    copies = 1

    @property
    def format_dict(self) -> MutableMapping[str, Any]:
        found = super().format_dict
        done, elapsed = found["n"] - found["initial"], found["elapsed"]
        rate = found["rate"] or (done / elapsed if elapsed else 0.0)
        found["postfix"] = f"{NS_PER_DAY * rate * found['unit_scale'] * self.copies:.3g} ns/day"
        return found


def dynamics_bar(items: Iterable[T], label: str, length: float, *, copies: int = 1, show: bool = True) -> Iterable[T]:
    """Iterate with a progress bar in ps, with the speed in ns/day.

    Parameters
    ----------
    length : float, ps
        Of what each item stands for.
    copies : int
        Copies of the molecule that move at once, whose times add up in the speed.
    """
    shown = _DynamicsBar(items, desc=label, disable=hidden(show), leave=False, unit="ps", unit_scale=length)
    shown.copies = copies
    return shown


class Ticker:
    """Thread that redraws a tqdm bar every second, with the time that has passed and the current activity
    (`activity.current`) as its description.

    Parameters
    ----------
    bar : tqdm
    idle : str
        The description where nothing in particular is going on.
    """

    def __init__(self, bar: tqdm[Any], idle: str) -> None:
        self._bar, self._idle, self._end = bar, idle, threading.Event()
        self._thread = None if bar.disable else threading.Thread(target=self._tick, name="ticker", daemon=True)
        if self._thread is not None:
            self._thread.start()

    def _tick(self) -> None:
        while not self._end.wait(TICK):
            try:
                self._bar.set_description_str(current() or self._idle, refresh=False)
                self._bar.refresh()
            except Exception:  # a terminal that is gone is no reason to end what is going on
                return

    def close(self) -> None:
        """Stop redrawing; the bar stays."""
        self._end.set()
        if self._thread is not None:
            self._thread.join()
            self._bar.set_description_str(self._idle, refresh=False)


class Ticking:
    """Context manager that shows the current activity and the time that has passed on one line, redrawn every second.

    Parameters
    ----------
    idle : str
        What is shown where nothing in particular is going on.
    show : bool
        False shows nothing.
    """

    def __init__(self, idle: str, show: bool = True) -> None:
        self._bar = tqdm(desc=current() or idle, disable=hidden(show), leave=False, bar_format="{desc} {elapsed}")
        self._ticker = Ticker(self._bar, idle)

    def __enter__(self) -> Ticking:
        return self

    def __exit__(self, *_: object) -> None:
        self._ticker.close()
        self._bar.close()


class TrainingBar:
    """Progress bar of a training: share of the budget spent, loss, effective sample sizes, speed and time left; redrawn
    every second.

    Parameters
    ----------
    show : bool
        False shows no bar.
    plot : LivePlot, optional
        Gets the same metrics.
    """

    def __init__(self, show: bool = True, plot: LivePlot | None = None) -> None:
        self._plot = plot
        self._bar = tqdm(
            total=100.0,
            desc="training",
            disable=hidden(show),
            bar_format="{desc} {percentage:3.0f} %|{bar:20}| {elapsed}<{remaining}{postfix}",
        )
        self._ticker = Ticker(self._bar, "training")
        self._evaluated: dict[str, float] = {}
        self._start: tuple[float, float] | None = None

    def __enter__(self) -> TrainingBar:
        return self

    def __exit__(self, *_: object) -> None:
        self._ticker.close()
        self._bar.close()

    def say(self, line: str) -> None:
        """Print a line of text above the bar, if the bar is shown."""
        if not self._bar.disable:
            self._bar.write(line)

    def update(self, info: Mapping[str, Any]) -> None:
        """Show the metrics of an iteration: loss, ess_flow, ess_ais, acceptance, evaluations, and `spent`, the share of
        the budget; where they are known ess, basin_df and basin_df_error.
        """
        self._evaluated |= {k: info[k] for k in ("ess", "basin_df", "basin_df_error") if k in info}
        shown = [f"loss {info['loss']:.2f}", f"ESS flow {100 * info['ess_flow']:.1f} %"]
        shown += [f"AIS {100 * info['ess_ais']:.1f} %"] if math.isfinite(info["ess_ais"]) else []
        shown += [f"acceptance {100 * info['acceptance']:.0f} %"] if math.isfinite(info["acceptance"]) else []
        shown.append(f"{info['evaluations']:.3g} evaluations{self._speed(info)}")
        if "basin_df" in self._evaluated:
            shown.append(f"ΔF(φ>0) {self._evaluated['basin_df']:.1f} kT")
        self._bar.set_postfix_str(", ".join(shown), refresh=False)
        self._bar.update(min(100.0, 100 * info["spent"]) - self._bar.n)
        if self._plot is not None:
            self._plot.add(info, last=info["spent"] >= 1)

    def _speed(self, info: Mapping[str, Any]) -> str:
        """Evaluations a second since the first update, as text: what a resumed run did before, and the filling of the
        buffer, do not count.
        """
        now = (time.perf_counter(), float(info["evaluations"]))
        if self._start is None:
            self._start = now
            return ""
        seconds, done = now[0] - self._start[0], now[1] - self._start[1]
        return f", {done / seconds:,.0f}/s" if seconds > 0 else ""


class LivePlot:
    """Figures of a training that are redrawn in a notebook while it runs.

        live = LivePlot(lambda history: [learning_curve(history)])
        for info in trainer:
            live.add(info)

    Parameters
    ----------
    figures : callable
        Takes the metrics of all iterations so far, and returns the figures to show, always as many.
    every : float, s
        Between drawings; each takes about a second.

    Raises
    ------
    ImportError
        Outside of a notebook.
    """

    def __init__(self, figures: Callable[[History], Sequence[Figure]], every: float = PLOT_EVERY) -> None:
        try:
            from IPython import get_ipython
        except ImportError:
            get_ipython = None
        if get_ipython is None or get_ipython() is None:
            raise ImportError(f"A live plot needs a notebook: {install('notebook')}. Else use progress=True.")
        self.figures, self.every = figures, every
        self.history = History()
        self._handles: list[Any] = []
        self._drawn = -math.inf

    def add(self, info: Mapping[str, Any], last: bool = False) -> None:
        """Take the metrics of an iteration, and redraw if the interval has passed or the iteration is the last."""
        self.history.append(info)
        if self.every < math.inf and (last or time.perf_counter() - self._drawn >= self.every):
            try:
                self.draw()
            except Exception as error:  # a picture is no reason to end a training
                warn(f"The live plot stops: {type(error).__name__}: {error}")
                self.every = math.inf
            self._drawn = time.perf_counter()

    def draw(self) -> None:
        """Draw the figures in place of the last ones."""
        from IPython.display import display

        figures = self.figures(self.history)
        if not self._handles:
            self._handles = [display(figure, display_id=True) for figure in figures]
        else:
            for handle, figure in zip(self._handles, figures, strict=True):
                handle.update(figure)
