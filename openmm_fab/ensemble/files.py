"""Ensembles as .npz files: arrays, the topology, and what else is known of the frames."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ..energy.evaluate import Rounding
from ..free_energy.frames import Frames
from ..tools.files import check_format, load_npz, write_atomically
from .audit import Audit
from .held import Held, from_json, to_json
from .trajectories import topology_from_arrays, topology_to_arrays

_FORMAT = "openmm_fab ensemble 1"


def write_npz(
    frames: Frames, path: Path, rounding: Rounding | None, held: Sequence[Held] | None, audit: Audit | None
) -> Path:
    """Write frames with what an `Ensemble` has besides; returns the path."""
    arrays = {
        key: value for key in ("x", "u", "log_w", "block", "log_q") if (value := getattr(frames, key)) is not None
    }
    about: dict[str, Any] = {"temperature": frames.temperature, "name": frames.name, "invalid": frames.invalid}
    if rounding is not None:
        about["rounding"] = asdict(rounding)
    if held is not None:
        about["held"] = to_json(held)
    if audit is not None:
        about["audit"] = audit.to_json()
    arrays |= topology_to_arrays(frames.topology) | {
        "about": np.array(json.dumps(about)),
        "format": np.array(_FORMAT),
    }
    write_atomically(path, lambda file: np.savez(file, **arrays))
    return path


def read_npz(path: Path) -> dict[str, Any]:
    """Arguments of an `Ensemble` out of a file that `write_npz` wrote.

    Raises
    ------
    ValueError
        A file that is truncated or was written by something else.
    """
    try:
        arrays = load_npz(path, "an ensemble file")
        check_format(str(arrays["format"]), _FORMAT, "an ensemble", path, "Read it with the version that wrote it.")
        found: dict[str, Any] = {key: arrays.get(key) for key in ("x", "u", "log_w", "block", "log_q")}
        about = json.loads(str(arrays["about"]))
        if "rounding" in about:
            about["rounding"] = Rounding(**about["rounding"])
        if "held" in about:
            about["held"] = from_json(about["held"])
        if "audit" in about:
            about["audit"] = Audit.from_json(about["audit"])
        return found | about | {"topology": topology_from_arrays(arrays)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"Expected a file written by Ensemble.save; {path} is truncated or something else ({error}). "
            "Write it again, or read a trajectory with mdtraj.load and Ensemble.from_mdtraj."
        ) from error
