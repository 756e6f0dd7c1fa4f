"""Checks of a result of `seeking`: k-hat, samples inside each basin, and an estimate of another kind."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from ..tools.findings import BAD, CARE, GOOD, Finding
from ..weights import FEW, KHAT_LIMIT, KHAT_RELIABLE, effective_sample_size, pareto_khat
from .quantities import Measured

SEEN = 10.0  # effective samples in a basin, for which a pilot grows to four times the time


INSIDE = 25.0  # effective samples in a basin, below which its error is not believed


APART = 3.0  # standard errors between two estimates of one of few quantities


def tails(found: Mapping[str, Measured]) -> bool:
    """Whether k-hat inside the basins, where it can be told, allows the weights to be used."""
    return not any(m.khat > KHAT_LIMIT for m in found.values())


def tail_checks(log_w: np.ndarray, found: Mapping[str, Measured]) -> list[Finding]:
    """Findings on k-hat, of all weights and of those inside each basin, and on the samples inside."""
    khats = {"all weights": pareto_khat(log_w), **{name: m.khat for name, m in found.items()}}
    where, worst_khat = max(khats.items(), key=lambda item: math.inf if math.isnan(item[1]) else item[1])
    head = f"k-hat {worst_khat:.2f} at most ({where})"
    if not worst_khat <= KHAT_LIMIT:
        first = Finding(BAD, head, "A few samples to come would change the result.")
    elif worst_khat > KHAT_RELIABLE:
        first = Finding(CARE, head, "Errors are underrated.")
    else:
        first = Finding(GOOD, head, "")
    few = min((m.effective for m in found.values()), default=0.0)
    ess = effective_sample_size(log_w)
    head = f"{few:,.0f} effective samples inside each basin, at least; {ess:,.0f} in all"
    if few < INSIDE or ess < FEW:
        return [first, Finding(BAD, head, f"Below {INSIDE:g} the error is itself uncertain.")]
    return [first, Finding(GOOD, head, "")]


def agreement(found: Mapping[str, Measured], other: Mapping[str, Measured]) -> Finding:
    """Finding on an independent estimate."""
    z, errors = {}, []
    for name, m in found.items():
        o = other.get(name)
        if o is not None and math.isfinite(o.error) and o.effective >= SEEN and math.isfinite(m.error):
            z[name] = abs(m.value - o.value) / math.hypot(m.error, o.error)
            errors.append(o.error)
    if not z:
        return Finding(CARE, "no independent estimate of use", "It has too few effective samples inside the basins.")
    name = max(z, key=lambda key: z[key])
    # Of several quantities the largest of so many is looked at: as likely as beyond APART for one.
    limit = APART + max(0.0, math.log(len(z))) / APART
    head = (
        f"an independent estimate of {len(z)} of {len(found)} quantities, its error {max(errors):.2g} at most, "
        f"{'agrees' if z[name] < limit else 'disagrees'} ({z[name]:.1f} standard errors apart at most, {name})"
    )
    return Finding(GOOD if z[name] < limit else BAD, head, "" if z[name] < limit else "Train longer.")
