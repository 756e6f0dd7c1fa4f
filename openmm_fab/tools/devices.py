"""What the machine has (devices, cores, bfloat16), and streams of random numbers on a device."""

from __future__ import annotations

import os

import torch


def checked(device: str | torch.device) -> torch.device:
    """Return the device after a test that this PyTorch can compute on it.

    Raises
    ------
    ValueError
        If this PyTorch has no such device, or cannot use it.
    """
    try:
        found = torch.device(device)
    except RuntimeError:  # its words are a list of all types, of which no machine has more than a few
        found, why = None, "PyTorch has no device of that name"
    if found is not None:
        try:
            torch.zeros(1, device=found)
            return found
        except (RuntimeError, AssertionError) as error:
            why = str(error).strip().splitlines()[0]
    raise ValueError(
        f'Expected a device that PyTorch can use, such as "cpu" or "cuda"; got {str(device)!r}: {why}. '
        "openmm-fab doctor says what this machine has."
    )


def core_count() -> int:
    """Number of cores that this process may run on: fewer than the machine has where a batch system pins it."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def rounds_quickly(device: torch.device) -> bool:
    """Whether a processor or GPU has instructions for products of bfloat16 matrices."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)  # Ampere; older ones are slow at it
    known = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile"))
    return device.type == "cpu" and any(supported() for supported in known if supported is not None)


def stream(device: str | torch.device, seed: int) -> torch.Generator:
    """Random number generator on a device, started with this seed."""
    device = torch.device(device)
    return torch.Generator(device if device.type == "cuda" else "cpu").manual_seed(seed)
