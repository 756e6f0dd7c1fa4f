"""Checkpoint files of a training, written atomically and checked when they are read.

A state is a dict of dicts, lists, tensors and numbers, as `Trainer.state_dict` returns it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..tools.files import DamagedFileError, check_format, load_torch, save_torch
from .distributed import RankLostError

CHECKPOINT_FORMAT = 13


def write(path: str | Path, state: dict[str, Any]) -> Path:
    """Write a state atomically; the previous file is kept as `files.previous(path)`."""
    return save_torch(path, {"format": CHECKPOINT_FORMAT, **state}, keep_previous=True)


def read(path: str | Path) -> dict[str, Any]:
    """Read a state that `write` wrote, with its "format".

    Raises
    ------
    FileNotFoundError
    DamagedFileError
        If the file is no checkpoint, or not whole.
    FormatError
        If another version of this package wrote it.
    """
    state = load_torch(path, "a training checkpoint")
    if not isinstance(state, dict) or not isinstance(state.get("format"), int):
        raise DamagedFileError(f"Expected a training checkpoint at {path}; got a file of another kind.")
    advice = "Resume with that version, or train anew in another folder."
    check_format(state["format"], CHECKPOINT_FORMAT, "a training checkpoint", path, advice)
    return state


@contextmanager
def restoring(path: str | Path) -> Iterator[None]:
    """Context manager that turns errors of a damaged state into DamagedFileError with its path."""
    try:
        yield
    except (RankLostError, DamagedFileError, torch.cuda.OutOfMemoryError):
        raise
    except (KeyError, TypeError, RuntimeError, IndexError) as error:
        raise DamagedFileError(
            f"Expected a training checkpoint at {path}; parts of it are missing or of another kind ({error!r})."
        ) from error


def check(path: str | Path, state: dict[str, Any], own: dict[str, Any], matches: Callable[[Tensor], bool]) -> None:
    """Raise unless a state belongs to the training whose own state is given.

    Parameters
    ----------
    path : path
        Of the state, for messages.
    state, own : dict
    matches : callable
        Whether the "marks" of a target are those of this training's.

    Raises
    ------
    ValueError
        It was made with other settings, another objective or for another target.
    DamagedFileError
        Parts are missing, or of another type.
    """
    if state["settings"] != own["settings"]:
        raise ValueError(
            f"Expected a checkpoint made with {own['settings']}; got one made with {state['settings']}. "
            "Resume with the settings it was made with."
        )
    if state["objective"] != own["objective"]:
        raise ValueError(
            f"Expected a checkpoint of the objective {own['objective']}; got one of {state['objective']}. "
            "Resume with the objective it was made with."
        )
    about = own["about"]
    differing = [k for k in {**about, **state["about"]} if about.get(k) != state["about"].get(k)]
    if differing:
        raise ValueError(
            f"Expected a checkpoint of the same {', '.join(differing)}; it was made with another. Resume with what "
            "it was made with, or train anew in another folder."
        )
    if not matches(state["marks"]):
        raise ValueError(
            f"Expected a checkpoint of the same target, whose log p at a few points is "
            f"{own['marks'].tolist()}; got one with {state['marks'].tolist()}. Resume with the "
            "structure, the coordinates and the energy it was made with, or train anew in another folder."
        )
    odd = [key for key in own if type(state.get(key)) is not type(own[key])]
    if odd:
        raise DamagedFileError(
            f"Expected a training checkpoint at {path}; its {', '.join(odd)} is missing or of another kind."
        )
