"""Where a run keeps its frames and the state to go on from."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from openmm_fab.files import write_atomically
from openmm_fab.md.settings import Settings
from openmm_fab.system import MolecularSystem

State = dict[str, Any]  # tensors and numbers, all that the next interval depends on
Frame = dict[str, np.ndarray]


def open_folder(folder: str | Path, system: MolecularSystem, settings: Settings, seed: int, resume: bool) -> Path:
    """A run's folder with its settings.json; an earlier run in it is neither overwritten nor mixed up.

    Raises
    ------
    ValueError
        A run is there and `resume` is False; or it was made with other settings, another seed or molecule.
    """
    folder = Path(folder)
    path = folder / "settings.json"
    about = {"method": settings.name, "seed": seed, "fingerprint": system.fingerprint, **asdict(settings)}
    about = json.loads(json.dumps(about))
    if path.exists():
        if not resume:
            raise ValueError(f"Expected a folder without a run; got {folder}. Pass resume=True, or another folder.")
        old = json.loads(path.read_text(encoding="utf-8"))
        changed = [k for k in {**old, **about} if old.get(k) != about.get(k) and k not in settings.may_grow]
        if changed:
            raise ValueError(
                f"Expected to resume with the settings in {path}; got another {', '.join(changed)}. "
                "Use the same ones, or another folder."
            )
    write_atomically(path, lambda file: file.write(json.dumps(about, indent=2)), "w")
    return folder


class Store:
    """Frames of walkers, in memory and, where there is a folder, in chunks on disk with the state that follows them.

    Files: frames_<first frame>.npz, state.pt. The state counts the frames that belong to it, so that a run that was
    killed between the two writes goes on right.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder, self.frames, self._written = folder, [], 0  # type: ignore[var-annotated]

    def load(self) -> State | None:
        """The last state saved, and the frames before it; None if there is none."""
        if self.folder is None or not (self.folder / "state.pt").exists():
            return None
        state: State = torch.load(self.folder / "state.pt", weights_only=True)
        for path in sorted(self.folder.glob("frames_*.npz")):
            if int(path.stem.split("_")[1]) == len(self.frames) < state["frames"]:
                with np.load(path, allow_pickle=False) as file:
                    whole = {key: file[key] for key in file.files}
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
        """Write what is new since the last call, then the state."""
        del self.frames[state["frames"] :]
        if self.folder is None:
            return
        new = self.frames[self._written :]
        if new:
            arrays: dict[str, Any] = {key: np.stack([frame[key] for frame in new]) for key in new[0]}
            path = self.folder / f"frames_{self._written:07d}.npz"
            write_atomically(path, lambda file: np.savez(file, **arrays))
        write_atomically(self.folder / "state.pt", lambda file: torch.save(state, file))
        self._written = len(self.frames)
