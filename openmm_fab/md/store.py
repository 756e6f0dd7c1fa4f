"""Folder of a run on the compiled energy: settings, frames, and the state to continue from."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ..molecule.system import MolecularSystem
from ..tools.files import (
    DamagedFileError,
    check_format,
    latest,
    load_npz,
    load_torch,
    previous,
    save_torch,
    write_atomically,
)
from ..tools.provenance import provenance
from ..tools.runs import keep_settings
from .settings import MethodSettings

State = dict[str, Any]  # tensors and numbers, all that the next interval depends on
Frame = dict[str, np.ndarray]
STATE_FORMAT = 1


def open_folder(
    folder: str | Path,
    system: MolecularSystem,
    settings: MethodSettings,
    seed: int,
    resume: bool,
    model: str | None = None,
) -> Path:
    """Open a run's folder with its settings.json; an earlier run in it is neither overwritten nor mixed with this one.

    Parameters
    ----------
    model : str, optional
        Digest of the generator that the method takes.

    Raises
    ------
    ValueError
        A run is there and `resume` is False; or it was made with other settings, another seed, molecule or model.
    """
    folder = Path(folder)
    path = folder / "settings.json"
    about = {"method": settings.name, "seed": seed, "fingerprint": system.fingerprint, "physics": system.physics}
    about |= asdict(settings) | {"made_with": provenance()}
    keep_settings(
        path,
        about if model is None else about | {"model": model},
        resume=resume and path.exists(),
        advice="Use the same ones, or another folder.",
        may_change=("made_with", "physics"),
        may_grow=settings.may_grow,
    )
    return folder


class Store:
    """Frames of walkers, in memory and, if there is a folder, in files with the state that follows them.

    Files: frames_<first frame>.npz, state.pt and the state before. The state counts the frames that belong to it, so
    that a run that was killed between the two writes goes on right.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder, self.frames, self._written = folder, [], 0  # type: ignore[var-annotated]

    def load(self) -> State | None:
        """Last saved state and the frames before it; None if there is none."""
        if self.folder is None:
            return None
        path = self.folder / "state.pt"
        if not path.exists() and not previous(path).exists():
            return None
        state = latest(path, _state)
        for path in sorted(self.folder.glob("frames_*.npz")):
            if int(path.stem.split("_")[1]) == len(self.frames) < state["frames"]:
                whole = load_npz(path, "frames of a run")
                self.frames += [{k: a[i] for k, a in whole.items()} for i in range(len(next(iter(whole.values()))))]
        if len(self.frames) < state["frames"]:
            raise ValueError(
                f"Expected {state['frames']} frames in {self.folder}; got {len(self.frames)}: files are missing. "
                "Start again in another folder."
            )
        del self.frames[state["frames"] :]
        self._written = len(self.frames)
        return state

    def save(self, state: State) -> None:
        """Write the frames that are new since the last call, then the state."""
        del self.frames[state["frames"] :]
        if self.folder is None:
            return
        new = self.frames[self._written :]
        if new:
            arrays: dict[str, Any] = {key: np.stack([frame[key] for frame in new]) for key in new[0]}
            path = self.folder / f"frames_{self._written:07d}.npz"
            write_atomically(path, lambda file: np.savez(file, **arrays))
        save_torch(self.folder / "state.pt", {"format": STATE_FORMAT, **state}, keep_previous=True)
        self._written = len(self.frames)


def _state(path: Path) -> State:
    state = load_torch(path, "the state of a run")
    if not isinstance(state, dict) or not isinstance(state.get("frames"), int):
        raise DamagedFileError(f"Expected the state of a run at {path}; got a file of another kind.")
    advice = "Resume with that version, or start again in another folder."
    check_format(state.pop("format", 0), STATE_FORMAT, "the state of a run", path, advice)
    return state
