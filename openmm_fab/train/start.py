"""The start of training for a flow q(t) q(s | t) that draws torsions t first and the stiff coordinates s given them.

FAB needs a flow that annealing can bring to the target.  An untrained flow of forty atoms is not one: log w has a
deviation of ten and more, and the few annealed samples that count make the flow learn single points.  So training
begins with objectives of little noise, and goes over to FAB once the flow's effective sample size allows it.  One
energy with its gradient a sample, no annealing; phases follow each other by what is measured:

`apart`    s by the reverse Kullback-Leibler divergence with t held fixed, which moves no weight between basins; t by
           its weights (below), which leave the clashes.  Until such a step reaches as far as lam = `APART`.
`joint`    the reverse Kullback-Leibler divergence of both, the forces acting on t, too.  It learns the shapes of
           basins; rare ones are lifted, see `train.lifting`.  One in which s is learned later than in another may lose
           its weight here.  Until lam is above `JOINT`, or the divergence falls no more.  The forces on t are whole:
           where those of clashes are cut, the entropy is stronger, and q(t) spreads into the clashes.
`weights`  t as in `apart`, with rare basins lifted: the basins get their populations; s by its weights as far as they
           reach, and by the reverse divergence, both along the paths of the samples (below).  Until the effective
           sample size is `ENOUGH`.
`fab`      what the objective was made with, the learning rate rising from 0 over `RISE` iterations: its noise is that
           of few annealed samples at first. Back to `weights` where the effective sample size falls below `BACK`.

The step of t: log w = log p(s, t) - log q(s | t) - log q(t) is an estimate of -F(t) - log q(t) from one sample, and t
gets the gradient of -sum (W_i - 1/n) log q(t_i) with W = softmax(lam log w).  lam is the largest in (0, 1] that leaves
the effective sample size `TRUST` n: a step no longer than the samples reach.

Where s is not learned yet a basin of t seems higher than it is; q(t) leaves it, and s is learned there no more.  So,
from `joint` on, one in `DEFENSIVE` samples has torsions of the layers as they were when it began, and of modes with the
shares that they had before training: r(t), which had every basin.  They are samples of the mixture m of both densities:
W = softmax(log(q / m) + lam log w), and 1/n becomes q / m / n.  Shares of modes are learned from lam = `SHARES` on.

The step of s in phase `weights` has the gradient of -sum W_i log q(s_i | t_i), since a flow of least reverse divergence
is too narrow, and of 1 - lam times the reverse divergence, since one that is far lets samples of little weight go
otherwise.  In so many stiff coordinates it is mostly noise, but its mean is the same along the path of each sample
(Tucker et al. 2019, arXiv 1810.04152; Roeder et al. 2017, arXiv 1703.09194; Vaitl et al. 2022, arXiv 2207.08219), where
it has none if q is p:

    -sum (lam W_i + (1 - lam) / n) (d/ds log p - d/ds log q)(s_i, t_i) . d s_i / d parameters.

Points that `Experience.start_from` was given join the steps of the weights, in every phase.
"""

from __future__ import annotations

import copy
import math
import statistics
from collections import deque
from typing import Any

import torch
from torch import Tensor, nn

from ..ais.path import Points
from ..flow.coupling import CouplingFlow
from ..tools.gradients import with_gradient_of
from ..weights import trusted_power
from .experience import Experience
from .learner import Learner
from .objectives import Objective, fab
from .settings import TrainSettings

PHASES = ("apart", "joint", "weights", "fab")
RATE = 2e-3  # of learning, before FAB
TORSIONS = 0.25  # of it, for the layers of torsions: their gradient is the noisier
STEEP = 20.0  # sqrt(dim); longer gradients of log p in s are cut
LOOK, FALL = 150, 0.25  # iterations; kT by which the divergence falls in so many while the joint phase pays
TRUST = 0.3
APART, JOINT, STEPS = 0.1, 0.4, 20  # lam, the median of so many steps, up to which these phases last
SHARES = 0.8  # lam, likewise, from which the shares of modes are learned
ENOUGH, BACK, RISE = 0.9, 0.5, 100
LIFT_EVERY = 20  # iterations
DEFENSIVE = 8
KEPT, SEEN = 40, 256  # of the latest batches, and samples of each, of all ranks, in which basins are looked for
LIFT = 12.0  # kT at most: a basin in which s is not learned yet seems higher than it is


class Start:
    """Objective that goes through the phases above and then continues with another objective.

    Parameters
    ----------
    then : Objective
        What follows; FAB with the buffer unless told otherwise.

    Attributes
    ----------
    phase : str
        One of `PHASES`.
    lam : float
        Power of the last step of the torsions; nan in FAB.
    """

    def __init__(self, then: Objective = fab) -> None:
        self.then, self.phase, self.lam = then, PHASES[0], math.nan
        self._divergences: deque[float] = deque(maxlen=2 * LOOK)
        self._lams: deque[float] = deque(maxlen=STEPS)
        self._iterations = 0  # of this phase
        self._drawn: deque[tuple[Tensor, Tensor]] = deque(maxlen=KEPT)
        self._before: dict[str, Tensor] | None = None  # state of the layers of torsions when `joint` began
        self._layers: nn.ModuleList | None = None  # these layers

    def __call__(self, learner: Learner, experience: Experience, settings: TrainSettings) -> None:
        """Make the gradient steps of one iteration."""
        self._iterations += 1
        if self.phase == "fab":
            learner.faster = min(1.0, self._iterations / RISE)
            self.then(learner, experience, settings)
            if not experience.ess_above(BACK):
                self._enter("weights")
            return
        flow = learner.flow
        if not isinstance(flow, CouplingFlow) or not flow.torsion_layers:
            raise ValueError(
                f"Expected a flow that draws torsions first, FlowSettings(torsion_layers=6, ...); got {flow}. "
                "Train it by FAB from the first step."
            )
        learner.faster = RATE / settings.learning_rate
        learner.slow([*flow.layers[: flow.torsion_layers].parameters(), *flow.mixtures.parameters()], TORSIONS)
        # By short steps a mode in which s is learned less would lose its share, and then its samples.
        reached = statistics.median(self._lams) if len(self._lams) == STEPS else 0.0
        flow.mixtures.requires_grad_(self.phase == "weights" and reached > SHARES)
        for _ in range(settings.updates):
            learner.learn(self._loss(flow, learner, experience, settings.batch))
        due = self._iterations > 0 and self._iterations % LIFT_EVERY == 0
        if due and self.phase != "apart" and settings.basin_share:
            # By the weights of the steps: what q alone has between two basins would join them.
            drawn, log_weights = map(torch.cat, zip(*self._drawn, strict=True))
            experience.target.update(drawn, log_weights, LIFT)
        if self.phase == "weights" and experience.ess_above(ENOUGH):
            self._enter("fab")
            flow.mixtures.requires_grad_(True)
            learner.slow([], 1.0)

    def _loss(self, flow: CouplingFlow, learner: Learner, experience: Experience, n: int) -> Tensor:
        target, first = experience.target, flow.first
        joint = self.phase == "joint"
        others = self._defensive(flow, n)
        z, log_q_t, log_q_s = flow.rsample_torsions_first(n, experience.rng, joint, others)
        at = z.detach()
        log_p, gradient = target.log_prob_and_gradient(at)
        log_q = flow.torsions_log_prob(at)  # log q(t)
        learner.counted.evaluations += 2 * n
        own = log_q.detach()
        mixture = own if others is None else self._mixture(flow, at, own, others)
        share = own - mixture
        log_w = (log_p - own - log_q_s.detach()).double()
        drawn_from_q = slice(n if others is None else n - others[0])
        experience.record_log_w(log_w[drawn_from_q], at[drawn_from_q])
        inside = torch.isfinite(log_w) & torch.isfinite(gradient).all(1)
        weights, self.lam = trusted_power(torch.where(inside, log_w, -torch.inf), TRUST, share)
        pull = torch.where(first, gradient if joint else 0.0, gradient)
        pull[:, ~first] = _cut(gradient[:, ~first], STEEP * math.sqrt(target.dim))
        if self.phase == "weights":
            pull -= torch.where(first, 0.0, flow.log_prob_and_gradient(at)[1])
            learner.counted.evaluations += n
            mixed = (self.lam * weights + (1 - self.lam) / n).to(z)
            divergence = -(mixed * (z * pull).sum(1))[inside].sum()
        else:
            divergence = ((log_q_t + log_q_s if joint else log_q_s) - (z * pull).sum(1))[inside].mean()
        step = ((share.exp() / n - weights).to(log_q) * log_q).sum()
        if (chains := experience.found()) is not None and bool(inside.any()):
            beside = self._beside(chains, log_w[inside], weights).to(log_q)
            step = step - (beside * flow.torsions_log_prob(chains.z)).sum()
        seen = slice(-(SEEN // experience.ranks.size), None)
        found = (at[seen], weights[seen].log())
        self._drawn.append((experience.ranks.gathered(found[0]), experience.ranks.gathered(found[1])))
        log_w = log_w[drawn_from_q][inside[drawn_from_q]]
        self._follow(experience.ranks.mean([self.lam])[0], -experience.ranks.gathered(log_w))
        value = -log_w.mean().to(log_q)
        return with_gradient_of(value, divergence + step)

    def _defensive(self, flow: CouplingFlow, n: int) -> tuple[int, nn.ModuleList] | None:
        """How many of n samples have torsions of r(t), and its layers; None before there is one."""
        if self.phase == "apart" or n < DEFENSIVE:
            return None
        if self._layers is None:
            self._layers = copy.deepcopy(flow.layers[: flow.torsion_layers]).requires_grad_(False)
            if self._before is None:
                self._before = self._layers.state_dict()
            self._layers.load_state_dict(self._before)
        return n // DEFENSIVE, self._layers

    @torch.no_grad()
    def _mixture(self, flow: CouplingFlow, z: Tensor, log_q_t: Tensor, others: tuple[int, nn.ModuleList]) -> Tensor:
        """log of the density (n,) of the torsions in z (n, dim): of q(t), which is given, and r(t) together."""
        k, layers = others
        parts = torch.stack(
            [log_q_t + math.log(1 - k / len(z)), flow.torsions_log_prob(z, layers) + math.log(k / len(z))]
        )
        return torch.logsumexp(parts, 0)

    def _beside(self, points: Points, log_w: Tensor, weights: Tensor) -> Tensor:
        """Weights (m,) of points that chains elsewhere reach, by the rule of the `weights` (n,) of samples with log_w,
        and no more than the largest of them, until the flow gets there itself."""
        above = (points.log_p - points.log_q).double() - log_w.max()
        return weights.max() * (self.lam * above.clamp(max=0.0)).exp().nan_to_num(0.0)

    def _follow(self, lam: float, divergence: Tensor) -> None:
        """Enter the next phase, if this one has done what it can; both arguments are those of all ranks."""
        self._lams.append(lam)
        reached = statistics.median(self._lams) if len(self._lams) == STEPS else 0.0
        if self.phase == "apart" and reached > APART:
            self._enter("joint")
        elif self.phase == "joint":
            self._divergences.append(float(divergence.median()) if len(divergence) else math.inf)
            before, now = list(self._divergences)[:LOOK], list(self._divergences)[LOOK:]
            still = len(now) == LOOK and statistics.median(before) - statistics.median(now) < FALL
            if reached > JOINT or still:
                self._enter("weights")

    def _enter(self, phase: str) -> None:
        self.phase, self._iterations = phase, 0
        self._lams.clear()
        self._drawn.clear()
        if phase == "fab":
            self.lam = math.nan

    def state_dict(self) -> dict[str, Any]:
        """State that the next iteration depends on."""
        return {
            "phase": self.phase,
            "iterations": self._iterations,
            "divergences": list(self._divergences),
            "lams": list(self._lams),
            "drawn": list(self._drawn),
            "before": self._before,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state of `state_dict`."""
        self.phase, self._iterations = state["phase"], state["iterations"]
        self._divergences = deque(state["divergences"], 2 * LOOK)
        self._lams = deque(state["lams"], STEPS)
        self._drawn = deque(state["drawn"], KEPT)
        self._before, self._layers = state["before"], None


def _cut(gradient: Tensor, most: float) -> Tensor:
    """Rows (n, k), those that are longer than `most` shortened to it."""
    return gradient * (most / gradient.norm(dim=1, keepdim=True).clamp(min=most))
