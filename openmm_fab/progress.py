"""What a user sees and keeps of a run: progress bars, and metrics as JSON lines and TensorBoard files."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tqdm.auto import tqdm

if TYPE_CHECKING:
    from .train import Trainer

T = TypeVar("T")


def bar(items: Iterable[T], label: str, show: bool = True) -> Iterable[T]:
    """Iterate with a progress bar."""
    return tqdm(items, desc=label, disable=not show, leave=False)


class TrainingBar:
    """Share of the budget spent, with loss, effective sample sizes, evaluations and time left."""

    def __init__(self, trainer: Trainer, show: bool = True) -> None:
        self._trainer = trainer
        self._bar = tqdm(
            total=100.0,
            desc="training",
            disable=not show,
            bar_format="{desc} {percentage:3.0f} %|{bar:20}| {elapsed}<{remaining}{postfix}",
        )
        self._evaluated: dict[str, float] = {}

    def __enter__(self) -> TrainingBar:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def update(self, info: dict[str, float]) -> None:
        """Show the metrics of an iteration."""
        self._evaluated |= {k: info[k] for k in ("ess", "basin_df", "basin_df_error") if k in info}
        shown = [
            f"loss {info['loss']:.2f}",
            f"ESS flow {100 * info['ess_flow']:.1f} %",
            f"AIS {100 * info['ess_ais']:.1f} %",
            f"{info['evaluations']:.3g} evaluations",
        ]
        if "basin_df" in self._evaluated:
            shown.append(f"ΔF(φ>0) {self._evaluated['basin_df']:.1f} kT")
        self._bar.set_postfix_str(", ".join(shown), refresh=False)
        self._bar.update(min(100.0, 100 * self._trainer.spent) - self._bar.n)


class RunLog:
    """Metrics of a run in `folder`: metrics.jsonl, and TensorBoard event files where tensorboard is installed."""

    def __init__(self, folder: str | Path | None, resume: bool = False) -> None:
        self._file, self._board = None, None
        if folder is None:
            return
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._file = open(folder / "metrics.jsonl", "a" if resume else "w", encoding="utf-8")
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        self._board = SummaryWriter(str(folder / "tensorboard"))

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
        if self._board is not None:
            self._board.close()

    def write(self, info: dict[str, float]) -> None:
        """Append one iteration."""
        if self._file is not None:
            self._file.write(json.dumps({k: _plain(v) for k, v in info.items()}) + "\n")
            self._file.flush()
        if self._board is not None:
            for key, value in info.items():
                if math.isfinite(value):
                    self._board.add_scalar(key, value, int(info["iteration"]))


def _plain(value: Any) -> float | None:
    """JSON has no infinity."""
    return value if math.isfinite(value) else None
