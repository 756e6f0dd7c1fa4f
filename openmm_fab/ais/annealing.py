"""Annealed importance sampling (Neal 2001) from a flow along a path; with resampling, sequential Monte Carlo."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ..flow.base import Flow
from ..target import Target
from ..tools.adaptive_batch import AdaptiveBatch
from ..tools.fields import Fields, check_fields
from ..tools.progress import bar
from ..weights import effective_sample_size, log_mean_exp, systematic_resample
from .kernels import KERNELS, Kernel, adapted, hmc, named
from .path import AnnealedDensity, Path, Points

SPACINGS = ("linear", "geometric", "adaptive")
GEOMETRIC_FIRST = 0.01  # lam of the first density above 0
PILOTS = 20  # passes in which step sizes are adapted before any weight counts
PILOT_CHAINS = 256  # in each, at most


@dataclass(frozen=True, kw_only=True)
class AISSettings(Fields):
    """Settings of annealed importance sampling.

    Attributes
    ----------
    alpha : float
        The path ends at p^alpha q^(1 - alpha).
    intermediate : int
        Densities between the two ends, each with one call of the kernel; if adaptive, at most so many.
    leapfrogs : int
        Leapfrog steps of an HMC trajectory; moves of the other kernels.
    step_size, acceptance : float
        First step, in units of z, and the acceptance it is adapted to, for each density on its own.
    kernel : str or callable
        "hmc", "mala", "metropolis" or "latent", which is HMC in the flow's base; or your own, see `ais.kernels.Kernel`.
    flow_every : int
        Leapfrog steps of HMC from one gradient of the flow to the next; see `ais.kernels.hmc`.
    widths : bool
        HMC's steps in proportion to each coordinate's width in the replay buffer, which is a diagonal mass matrix.
    spacing : str
        Of lam: "linear"; "geometric" from 0.01; "adaptive": every step costs the conditional effective sample size
        (Zhou, Johansen, Aston 2016, eq. 4) a share of `ess_drop`. Adaptive weights are right only up to O(1 / chains).
    ess_drop : float
    resample : float
        Chains are resampled wherever the effective sample size falls below this share (sequential Monte Carlo,
        Del Moral, Doucet, Jasra 2006); 0 never does. The mean weight is still unbiased; weights depend on each other,
        and an effective sample size made of them does not see which points are copies.
    """

    alpha: float = 2.0
    intermediate: int = 1
    leapfrogs: int = 3
    step_size: float = 0.1
    acceptance: float = 0.65
    kernel: str | Kernel = "hmc"
    flow_every: int = 1
    widths: bool = False
    spacing: str = "linear"
    ess_drop: float = 0.1
    resample: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "kernel", named(self.kernel))
        check_fields(
            self, positive=("alpha", "step_size"), at_least={"intermediate": 0, "leapfrogs": 1, "flow_every": 1}
        )
        if not 0 < self.acceptance < 1:
            raise ValueError(f"Expected 0 < acceptance < 1; got {self.acceptance}.")
        if self.kernel not in KERNELS or self.spacing not in SPACINGS:
            raise ValueError(f"Expected a kernel of {tuple(KERNELS)} and a spacing of {SPACINGS}; got {self}.")
        if self.leapfrogs % self.flow_every:
            raise ValueError(f"Expected leapfrogs in whole multiples of flow_every; got {self}.")
        if self.kernel != "hmc" and (self.flow_every > 1 or self.widths):
            raise ValueError(f'Expected flow_every and widths with the kernel "hmc" only; got {self}.')
        if not 0 < self.ess_drop < 1 or not 0 <= self.resample <= 1:
            raise ValueError(f"Expected 0 < ess_drop < 1 and 0 <= resample <= 1; got {self}.")

    def require_independent_chains(self) -> None:
        """Raise a ValueError if these settings make chains depend on each other or on a training."""
        if self.resample or self.widths:
            raise ValueError(
                "Expected AISSettings without resampling, after which weights depend on each other, and without "
                f"widths, which are of a training's buffer; got {self}."
            )

    @property
    def ladder(self) -> list[float]:
        """Values of lam from 0 to 1, both included; adaptive spacing, which finds them during a pass, has none."""
        assert self.spacing != "adaptive"
        n = self.intermediate + 1
        if self.spacing == "geometric" and n > 1:
            return [0.0, *(GEOMETRIC_FIRST ** (1 - k / (n - 1)) for k in range(n))]
        return [k / n for k in range(n + 1)]


@dataclass(frozen=True)
class AISResult:
    """Result of one pass of annealed importance sampling.

    Attributes
    ----------
    points : Points
        Ends of the chains.
    log_w : Tensor, shape (batch,)
        Log weights of the ends towards p^alpha q^(1 - alpha); -inf for invalid points, which stay in the count.
    start : Points
        Where the flow put them, for the flow's own weights log_p - log_q; not row by row if chains were resampled.
    acceptance : list of float
        Mean acceptance at each intermediate density.
    ladder : list of float
        lam from 0 to 1.
    resampled : int
        Number of times the chains were resampled.
    """

    points: Points
    log_w: Tensor
    start: Points
    acceptance: list[float]
    ladder: list[float]
    resampled: int = 0


def run_ais(
    flow: Flow,
    target: Target,
    n: int,
    settings: AISSettings,
    step_sizes: Sequence[float],
    *,
    rng: torch.Generator | None = None,
    widths: Tensor | None = None,
    ladder: Sequence[float] | None = None,
) -> AISResult:
    """Anneal n flow samples along the path; `widths` (dim,) multiply the step sizes, `ladder` fixes the values of lam.

    log w = sum_k log f_k(z_(k-1)) - log f_(k-1)(z_(k-1)), each term where the k-th transition starts (Neal 2001).
    """
    path, kernel = Path(settings.alpha), KERNELS[named(settings.kernel)]
    if settings.flow_every > 1:
        kernel = partial(hmc, flow_every=settings.flow_every)
    z, log_q = flow.sample(n, rng)
    points = start = Points(z, log_q, *target.log_prob_and_gradient(z))
    log_w = torch.zeros(n, dtype=torch.float64, device=z.device)
    acceptance: list[float] = []
    passed, resampled = [0.0], 0
    while passed[-1] < 1:
        k = len(acceptance)
        lam = ladder[k + 1] if ladder is not None else _next_lam(settings, path, k, passed[-1], points, log_w)
        log_w = log_w + _increment(path, points, passed[-1], lam)
        passed.append(lam)
        if lam < 1:
            if settings.resample and _worn(log_w, settings.resample):
                points, log_w = _resampled(points, log_w, rng)
                resampled += 1
            step = step_sizes[k] if widths is None else step_sizes[k] * widths
            density = AnnealedDensity(path, lam, flow, target)
            points, accept = kernel(points, density, step, settings.leapfrogs, rng)
            acceptance.append(float(accept.mean()))
    return AISResult(points, log_w, start, acceptance, passed, resampled)


def in_passes(
    run: Callable[[int], AISResult], n: int, adaptive: AdaptiveBatch, rng: torch.Generator | None = None
) -> AISResult:
    """Return run(n), or several passes joined where memory does not hold n chains; each pass is valid on its own."""
    return concatenate(adaptive(lambda start, stop: run(stop - start), n, rng))


def concatenate(parts: Sequence[AISResult]) -> AISResult:
    """Join several passes into one result.

    Acceptances are averaged per density over the chains that reached it; the ladder is that of the first pass.
    """
    if len(parts) == 1:
        return parts[0]

    def all_of(points: Sequence[Points]) -> Points:
        names = [f.name for f in fields(Points) if all(getattr(p, f.name) is not None for p in points)]
        return Points(**{name: torch.cat([getattr(p, name) for p in points]) for name in names})

    acceptance = []
    for k in range(max(len(part.acceptance) for part in parts)):
        seen = [part for part in parts if len(part.acceptance) > k]
        acceptance.append(sum(p.acceptance[k] * len(p.log_w) for p in seen) / sum(len(p.log_w) for p in seen))
    return AISResult(
        all_of([part.points for part in parts]),
        torch.cat([part.log_w for part in parts]),
        all_of([part.start for part in parts]),
        acceptance,
        parts[0].ladder,
        sum(part.resampled for part in parts),
    )


def anneal_to_target(
    flow: Flow,
    target: Target,
    n: int,
    settings: AISSettings,
    *,
    rng: torch.Generator | None = None,
    batch: int = 256,
    pilots: int = PILOTS,
    progress: bool = False,
) -> tuple[Points, Tensor]:
    """Anneal n flow samples to the target; returns points and log weights (n,) whose mean weight estimates its Z.

    Parameters
    ----------
    batch : int
        Chains run at once.
    pilots : int
        Passes before the first that counts, in which step sizes and an adaptive ladder are found; then they are held,
        so that chains that count do not choose their own path.
    progress : bool
        A bar over the passes.

    Raises
    ------
    FloatingPointError
        The flow's own samples have no finite density.
    """
    if settings.alpha != 1.0 or n < 1:
        raise ValueError(
            f"Expected n >= 1 and settings with alpha = 1; got {n} and alpha = {settings.alpha}, whose weights belong "
            "to p^alpha q^(1 - alpha), not to p."
        )
    steps, ladder = [settings.step_size] * settings.intermediate, None
    adaptive = AdaptiveBatch("Annealing")

    def run(chains: int) -> AISResult:
        return run_ais(flow, target, chains, settings, steps, rng=rng, ladder=ladder)

    for _ in bar(range(pilots if settings.intermediate else 0), "adapting step sizes", progress, unit="pilots"):
        pilot = in_passes(run, min(batch, PILOT_CHAINS), adaptive, rng)
        steps = adapted(steps, pilot.acceptance, settings.acceptance, 1.3)
    if settings.spacing == "adaptive" and pilots and settings.intermediate:
        ladder = pilot.ladder
    passes = bar(range(0, n, batch), "annealing", progress, unit="chains", size=batch)
    whole = concatenate([in_passes(run, min(batch, n - k), adaptive, rng) for k in passes])
    if not torch.isfinite(whole.start.log_q).all():
        raise FloatingPointError("Expected finite densities of the flow's own samples; the flow is broken.")
    return whole.points, whole.log_w


def _increment(path: Path, points: Points, before: float, lam: float) -> Tensor:
    """log f_lam - log f_before (batch,); -inf where p is zero at any point of the path, so that the weight stays
    zero."""
    (a0, b0), (a1, b1) = path.exponents(before), path.exponents(lam)
    change = (a1 - a0) * points.log_q.double() + (b1 - b0) * points.log_p.double()
    return torch.where(torch.isfinite(change), change, -torch.inf)


def _next_lam(settings: AISSettings, path: Path, k: int, lam: float, points: Points, log_w: Tensor) -> float:
    """The next lam: from the ladder, or where the conditional effective sample size has fallen by `ess_drop`."""
    if settings.spacing != "adaptive":
        return settings.ladder[k + 1]
    whole = _increment(path, points, 0.0, 1.0)
    good = torch.isfinite(whole) & torch.isfinite(log_w)  # what is lost is lost at any lam
    if k == settings.intermediate or not good.any():
        return 1.0
    whole, weights = whole[good], log_w[good].softmax(0)

    def share(step: float) -> float:
        u = (step * (whole - whole.max())).exp()
        return float((weights * u).sum().square() / (weights * u.square()).sum())

    low, high = 0.0, 1.0 - lam
    if share(high) >= 1 - settings.ess_drop:
        return 1.0
    for _ in range(40):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if share(middle) > 1 - settings.ess_drop else (low, middle)
    return lam + high


def _worn(log_w: Tensor, share: float) -> bool:
    """Whether the effective sample size has fallen below this share (0: never)."""
    if not torch.isfinite(log_w).any():
        return False
    return effective_sample_size(log_w.cpu().numpy()) < share * len(log_w)


def _resampled(points: Points, log_w: Tensor, rng: torch.Generator | None) -> tuple[Points, Tensor]:
    """Draw as many points by their weights, and give each the mean weight, which leaves Z unchanged."""
    seed = int(torch.randint(2**62, (1,), generator=rng, device=rng.device if rng else None))
    w = log_w.cpu().numpy()
    index = systematic_resample(w, len(w), np.random.default_rng(seed))
    return points.take(torch.from_numpy(index).to(log_w.device)), torch.full_like(log_w, log_mean_exp(w))
