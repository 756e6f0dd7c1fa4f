"""Objectives of training: the gradient steps of one iteration, and the losses.

An objective is a function of learner, experience and settings.  One call is one iteration: it makes `settings.updates`
gradient steps with `learner.learn(loss)`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from ..tools.gradients import with_gradient_of
from . import pathwise
from .distributed import Ranks
from .experience import Experience
from .learner import Learner
from .settings import TrainSettings
from .transport import ConstrainedMassTransport

Objective: TypeAlias = Callable[[Learner, Experience, TrainSettings], None]

PATH_FROM = 0.6  # of the budget, where the learning rate has fallen: before, path gradients undo what they gain


def fab(learner: Learner, experience: Experience, settings: TrainSettings) -> None:
    """Objective of FAB with the prioritised replay buffer (FAB paper, algorithm 1)."""
    experience.fill()  # sample the flow, anneal towards p^alpha q^(1 - alpha), add to the buffer
    replay(learner, experience, settings)  # draw from the buffer, make a gradient step, adjust weights to the flow


def replay(learner: Learner, experience: Experience, settings: TrainSettings) -> None:
    """Draw batches from the buffer by their weights, make a gradient step on each, and update their weights to the
    flow; `train.buffer` describes the control variate."""
    s, buffer, ranks = settings, experience.buffer, experience.ranks
    log_a, log_a_own, log_b = ranks.log_totals(buffer.log_sums())
    log_kappa = log_a_own - log_b if s.control_variate and torch.isfinite(log_b) else -torch.inf
    batches = buffer.sample(s.updates * s.batch, experience.rng, log_kappa)
    log_total = batches.log_total[None]  # of this rank
    scale = (ranks.log_totals(log_total)[0] - log_a).exp() * ranks.share(log_total)
    for drawn in batches.split(s.batch):
        share = path_share(learner, experience, s)
        slope = experience.target.add_bias(drawn.grad_log_p, drawn.z) if share else None
        mixed, log_q = learner.log_probs(drawn.z, slope, share)
        loss, log_adjustment = fab_buffer_loss(mixed, drawn.log_q, s.ais.alpha, s.max_adjustment, drawn.weight * scale)
        weight = drawn.control_weight * scale * (1 - share)  # path gradients have no such noise
        against = control_variate(log_q, drawn.log_q, s.max_adjustment, weight)
        learner.learn(with_gradient_of(loss, against))
        buffer.adjust(drawn.index, log_adjustment, log_q.detach())


def fab_no_buffer(learner: Learner, experience: Experience, settings: TrainSettings) -> None:
    """Objective of FAB without a buffer: each annealed pass is used once (FAB paper, eq. 7)."""
    for _ in range(settings.updates):
        result = experience.anneal()
        share = path_share(learner, experience, settings)
        log_q = learner.log_prob(result.points.z, result.points.grad_log_p, share)
        learner.learn(pooled_loss(log_q, result.log_w, experience.ranks))


def alpha_divergence(learner: Learner, experience: Experience, settings: TrainSettings) -> None:
    """Objective of the alpha-divergence on weighted flow samples, without annealing (Müller et al. 2019, arXiv
    1808.03856)."""
    for _ in range(settings.updates):
        z, log_q = learner.counted.sample(settings.batch, experience.rng)
        log_p, grad_log_p = experience.target.log_prob_and_gradient(z)
        log_w = log_p.double() - log_q.double()
        experience.record_log_w(log_w, z)
        log_w = settings.ais.alpha * log_w
        log_q = learner.log_prob(z, grad_log_p, path_share(learner, experience, settings))
        learner.learn(pooled_loss(log_q, log_w, experience.ranks))


def path_share(learner: Learner, experience: Experience, settings: TrainSettings) -> float:
    """Share of the next gradient that is taken as a path gradient; see `TrainSettings.path_above`."""
    s = settings
    if not s.path_gradient or not pathwise.has_base(learner.flow):
        return 0.0
    late = learner.spent >= PATH_FROM and experience.ess_above(s.path_above)
    return s.path_gradient if s.path_above == 0 or late else 0.0


def reverse_kl(learner: Learner, experience: Experience, settings: TrainSettings) -> None:
    """Objective of the Kullback-Leibler divergence from the flow to the target, up to log Z, on flow samples.

    If some samples have zero density, the divergence is that of the others, normalised, and their share v adds -log v;
    otherwise the flow would gain by moving to where nothing is counted. The flux through the boundary of such a region
    as the flow moves is not in the gradient.
    """
    flow, n = learner.flow, settings.batch
    if not hasattr(flow, "rsample"):
        raise ValueError(
            f"Expected a flow with rsample(n, rng), which is sample with a graph; {type(flow).__name__} has "
            "none. Use another objective."
        )
    for _ in range(settings.updates):
        z, log_q = flow.rsample(n, experience.rng)
        learner.counted.evaluations += n
        loss, inside = reverse_loss(experience, z, log_q)
        if not inside.all():
            share = inside.double().mean()
            # grad log v = E[1 / v, or 0 outside, times grad log q]; minus E[grad log q] = 0, for less noise.
            pull = ((inside / share - 1).to(log_q) * learner.log_prob(z)).mean()
            loss = with_gradient_of(loss - share.log().to(loss), -pull)
        learner.learn(loss)


def reverse_loss(experience: Experience, z: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of log q - log p over samples with a density; the gradient of log p is the target's own.

    Returns
    -------
    loss : Tensor, scalar
    inside : Tensor of bool, shape (batch,)
        Which samples have one.
    """
    log_p, gradient = experience.target.log_prob_and_gradient(z)
    experience.record_log_w(log_p - log_q.detach(), z.detach())
    log_p = with_gradient_of(log_p, (z * gradient).sum(1))
    difference = log_q - log_p
    inside = torch.isfinite(difference.detach())
    return difference[inside].mean(), inside


@dataclass(frozen=True)
class MaximumLikelihood:
    """Objective of maximum likelihood: mean of -log q over samples of the target.

    Attributes
    ----------
    samples : Tensor, shape (n, dim), or callable
        z of given samples, drawn from with replacement; or a function (n, rng) -> z that makes new ones.
    """

    samples: Tensor | Callable[[int, torch.Generator], Tensor]

    def __call__(self, learner: Learner, experience: Experience, settings: TrainSettings) -> None:
        s, rng = settings, experience.rng
        for _ in range(s.updates):
            if callable(self.samples):
                z = self.samples(s.batch, rng)
            else:
                drawn = torch.randint(len(self.samples), (s.batch,), generator=rng, device=rng.device)
                z = self.samples[drawn.to(self.samples.device)]
            learner.learn(-learner.log_prob(z.to(next(learner.flow.parameters()))).mean())


OBJECTIVES: dict[str, Objective] = {
    "fab": fab,
    "fab_no_buffer": fab_no_buffer,
    "reverse_kl": reverse_kl,
    "alpha_divergence": alpha_divergence,
}


def objective_by_name(name: str, samples: Tensor | None = None) -> Objective:
    """Objective of this name, "cmt" for constrained mass transport; "maximum_likelihood" needs samples z (n, dim), and
    no other takes them."""
    names = (*OBJECTIVES, "cmt")
    if (name == "maximum_likelihood") != (samples is not None) or name not in {*names, "maximum_likelihood"}:
        raise ValueError(
            f"Expected one of {names} without samples, or maximum_likelihood with some; got {name!r} "
            f"{'without' if samples is None else 'with'} samples."
        )
    if name == "cmt":  # each training has its own stages
        return ConstrainedMassTransport()
    return OBJECTIVES[name] if samples is None else MaximumLikelihood(samples)


def fab_buffer_loss(
    log_q: Tensor, log_q_old: Tensor, alpha: float, max_adjustment: float, weights: Tensor | float = 1.0
) -> tuple[Tensor, Tensor]:
    """Loss of FAB on samples drawn from the prioritised buffer (FAB paper, algorithm 1).

    The alpha-divergence's loss is L = integral p^alpha q^(1 - alpha), here times a constant, so
    grad L = (1 - alpha) integral p^alpha q^(1 - alpha) grad log q.  Samples drawn in proportion to their weights
    towards p^alpha q_old^(1 - alpha) estimate its direction as -E[c grad log q], where c = (q / q_old)^(1 - alpha)
    follows the flow since they were annealed.

    Parameters
    ----------
    log_q, log_q_old : Tensor, shape (batch,)
        Now, with gradient; and when the weights were last right.
    alpha : float
    max_adjustment : float
        c is cut here, for a stable gradient.
    weights : Tensor, shape (batch,), optional
        Of samples that were drawn otherwise than in proportion to theirs.

    Returns
    -------
    loss : Tensor, scalar
    log_adjustment : Tensor, shape (batch,)
        log c, uncut, to correct the buffer with.
    """
    log_adjustment = (1.0 - alpha) * (log_q.detach() - log_q_old)
    followed = log_adjustment.exp().clamp(max=max_adjustment) * weights
    return -(followed.to(log_q) * log_q).mean(), log_adjustment


def control_variate(log_q: Tensor, log_q_old: Tensor, max_adjustment: float, weights: Tensor) -> Tensor:
    """Control variate: mean of c' log q with weights (batch,), c' = q / q_old, whose gradient has zero mean for
    samples of q_old."""
    followed = (log_q.detach() - log_q_old).exp().clamp(max=max_adjustment) * weights
    return (followed.to(log_q) * log_q).mean()


def pooled_loss(log_q: Tensor, log_w: Tensor, ranks: Ranks) -> Tensor:
    """Loss of one rank whose average over the ranks is the weighted loss of all samples; a rank may have none with a
    weight."""
    share = ranks.share(log_w)
    return weighted_loss(log_q, log_w) * share if share else log_q[:0].sum()


def weighted_loss(log_q: Tensor, log_w: Tensor) -> Tensor:
    """Loss -sum of W log q with normalised weights W towards p^alpha q^(1 - alpha), shapes (batch,).

    Its gradient is in the direction of the alpha-divergence's (FAB paper, eq. 6); samples without weight are left out,
    and nan comes of a batch that has no other.
    """
    weights = torch.where(torch.isfinite(log_w), log_w, -torch.inf).softmax(0)
    return -(weights[weights != 0] * log_q[weights != 0]).sum()
