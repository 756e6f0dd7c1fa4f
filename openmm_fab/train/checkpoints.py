"""A trainer's checkpoint: everything that its next iteration depends on, in one file."""

from __future__ import annotations

from collections import deque
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..tools.files import DamagedFileError, check_format, load_torch, save_torch
from .distributed import RankLostError

if TYPE_CHECKING:
    from .trainer import Trainer


CHECKPOINT_FORMAT = 10


def write(trainer: Trainer, path: str | Path) -> Path:
    """See `Trainer.save`."""
    state = trainer.ranks.pool(state_of(trainer))
    return save_torch(path, state, keep_previous=True) if trainer.ranks.first else Path(path)


def read(trainer: Trainer, path: str | Path) -> None:
    """See `Trainer.load`."""
    state = load_torch(path, "a training checkpoint")
    if not isinstance(state, dict) or not isinstance(state.get("format"), int):
        raise DamagedFileError(f"Expected a training checkpoint at {path}; got a file of another kind.")
    advice = "Resume with that version, or train anew in another folder."
    check_format(state["format"], CHECKPOINT_FORMAT, "a training checkpoint", path, advice)
    try:
        refuse_other(trainer, state)
        own = state_of(trainer)
        odd = [key for key in own if type(state.get(key)) is not type(own[key])]
        if odd:
            raise DamagedFileError(
                f"Expected a training checkpoint at {path}; its {', '.join(odd)} is missing or of another kind."
            )
        restore(trainer, trainer.ranks.dealt(state, trainer.generator.device))
    except (RankLostError, DamagedFileError, torch.cuda.OutOfMemoryError):
        raise
    except (KeyError, TypeError, RuntimeError, IndexError) as error:
        raise DamagedFileError(
            f"Expected a training checkpoint at {path}; parts of it are missing or of another kind ({error!r})."
        ) from error


def state_of(trainer: Trainer) -> dict[str, Any]:
    """What a checkpoint holds."""
    return {
        "format": CHECKPOINT_FORMAT,
        "settings": asdict(trainer.settings),
        "objective": trainer.objective_name,
        "about": trainer.about,
        "marks": trainer.target.fingerprint,
        **trainer.learned(),
        "buffer": trainer.buffer.state_dict(),
        "health": trainer.health.state_dict(),
        "basins": trainer.lifted.coefficients,
        "recent": list(trainer._recent),
        "random": trainer.generator.get_state(),
        "counts": [trainer.iteration, trainer.updates, trainer.seconds, trainer.skipped],
        "evaluations": [trainer.own_evaluations, trainer.counted.evaluations],
    }


def refuse_other(trainer: Trainer, state: dict[str, Any]) -> None:
    """Raise ValueError if a checkpoint was made with other settings, another objective or for another target."""
    if state["settings"] != asdict(trainer.settings):
        raise ValueError(
            f"Expected a checkpoint made with {asdict(trainer.settings)}; got one made with {state['settings']}. "
            "Resume with the settings it was made with."
        )
    if state["objective"] != trainer.objective_name:
        raise ValueError(
            f"Expected a checkpoint of the objective {trainer.objective_name}; got one of {state['objective']}. "
            "Resume with the objective it was made with."
        )
    differing = [k for k in {**trainer.about, **state["about"]} if trainer.about.get(k) != state["about"].get(k)]
    if differing:
        raise ValueError(
            f"Expected a checkpoint of the same {', '.join(differing)}; it was made with another. Resume with what "
            "it was made with, or train anew in another folder."
        )
    if not trainer.target.matches(state["marks"]):
        raise ValueError(
            f"Expected a checkpoint of the same target, whose log p at a few points is "
            f"{trainer.target.fingerprint.tolist()}; got one with {state['marks'].tolist()}. Resume with the "
            "structure, the coordinates and the energy it was made with, or train anew in another folder."
        )


def restore(trainer: Trainer, state: dict[str, Any]) -> None:
    """Take over what `state_of` gave."""
    try:
        trainer.take_back(state)
    except torch.cuda.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise ValueError(
            "Expected a checkpoint of this flow; got one of another shape. Resume with the system and the flow "
            "settings it was made with."
        ) from error
    trainer.buffer.load_state_dict(state["buffer"])
    trainer.health.load_state_dict(state["health"])
    trainer.lifted.coefficients = state["basins"]
    recent = [log_w.to(trainer.generator.device) for log_w in state["recent"]]
    trainer._recent, trainer._ess = deque(recent, trainer._recent.maxlen), None
    trainer.generator.set_state(state["random"])
    trainer.iteration, trainer.updates, trainer.seconds, trainer.skipped = state["counts"]
    trainer.own_evaluations, trainer.counted.evaluations = state["evaluations"]
    (trainer._evaluations,) = trainer.ranks.totals([trainer.own_evaluations])
