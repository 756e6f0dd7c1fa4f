"""A run's metrics in files: metrics.jsonl, TensorBoard's event files, Weights & Biases."""

from __future__ import annotations

import json
import math
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .files import write_atomically

METRICS = "metrics.jsonl"  # in a run's folder
BOARD_EVERY = 10  # iterations


class RunLog:
    """Writer of a run's metrics: metrics.jsonl in `folder` and, where tensorboard is installed, event files of every
    `BOARD_EVERY`th iteration and of evaluated ones.

    Where the environment variable WANDB_PROJECT is set, Weights & Biases gets them too, in that project and under the
    folder's name; a resumed run goes on in its own.

    Parameters
    ----------
    after : int, optional
        Go on in what is there, after this iteration: rows of later ones, which a run that was killed wrote after its
        checkpoint, and half a row are taken out.
    """

    def __init__(self, folder: str | Path | None, after: int | None = None) -> None:
        self._file, self._wandb = None, None
        self._board: Any = None
        if folder is None:
            return
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._wandb = _weights_and_biases(folder)
        path = folder / METRICS
        rows = [] if after is None or not path.exists() else read_metrics(path)
        kept = [json.dumps(row) + "\n" for row in rows if row["iteration"] <= (after or 0)]
        write_atomically(path, lambda file: file.writelines(kept), "w")
        self._file = open(path, "a", encoding="utf-8")
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        # TensorBoard forgets what earlier writers left from this step on, too.
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=(after or 0) + 1)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
        if self._board is not None:
            self._board.close()
        if self._wandb is not None:
            self._wandb.finish()

    def write(self, info: Mapping[str, Any]) -> None:
        """Append the metrics of one iteration."""
        if self._file is not None:
            self._file.write(json.dumps({k: _plain(v) for k, v in info.items()}) + "\n")
            self._file.flush()
        if self._board is not None and (info["iteration"] % BOARD_EVERY == 0 or "ess" in info):
            # One event of all values: protobuf, which makes them, now and then has the C library give back all the
            # memory that the process keeps (malloc_trim), and after so many events.
            from tensorboard.compat.proto.summary_pb2 import Summary

            values = [Summary.Value(tag=k, simple_value=v) for k, v in info.items() if math.isfinite(v)]
            self._board.file_writer.add_summary(Summary(value=values), int(info["iteration"]))
        if self._wandb is not None:
            self._wandb.log({k: v for k, v in info.items() if math.isfinite(v)}, step=int(info["iteration"]))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Complete rows of a metrics.jsonl; the last one of a killed run may be incomplete and is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and "iteration" in row:
            rows.append(row)
    return rows


def _weights_and_biases(folder: Path) -> Any:
    """A run of Weights & Biases where the environment asks for one."""
    project = os.environ.get("WANDB_PROJECT")
    if not project:
        return None
    try:
        import wandb
    except ImportError as error:
        raise ImportError("WANDB_PROJECT is set, which needs wandb: pip install wandb. Or unset it.") from error
    # The id stays beside the metrics; a new run in a folder of the same name elsewhere has its own.
    place = folder / "wandb_id"
    if not place.exists():
        place.write_text(uuid.uuid4().hex[:12], encoding="utf-8")
    name = place.read_text(encoding="utf-8")
    return wandb.init(project=project, name=folder.name, id=name, resume="allow", dir=str(folder))


def _plain(value: Any) -> float | None:
    """The number, or None where it is not finite: JSON has no infinity."""
    return value if math.isfinite(value) else None
