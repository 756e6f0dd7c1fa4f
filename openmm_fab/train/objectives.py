"""What training minimises.

An objective is a function of the trainer that makes the gradient steps of one iteration: `trainer.learn(loss)` each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .distributed import Ranks
    from .trainer import Trainer


Objective: TypeAlias = "Callable[[Trainer], None]"


def fab(trainer: Trainer) -> None:
    """FAB with the prioritised buffer: one pass of annealing into the buffer, then gradient steps on what it draws."""
    trainer.fill()
    replay(trainer)


def replay(trainer: Trainer) -> None:
    """Gradient steps on prioritised samples, whose weights then follow the flow; see `train.buffer` for the control
    variate."""
    s, buffer, ranks = trainer.settings, trainer.buffer, trainer.ranks
    log_a, log_a_own, log_b = ranks.log_totals(buffer.log_sums())
    log_kappa = log_a_own - log_b if s.control_variate and torch.isfinite(log_b) else -torch.inf
    batches = buffer.sample(s.updates * s.batch, trainer.generator, log_kappa)
    log_total = batches.log_total[None]  # of this rank
    scale = (ranks.log_totals(log_total)[0] - log_a).exp() * ranks.share(log_total)
    for drawn in batches.split(s.batch):
        slope = trainer.lifted.lifted(drawn.grad_log_p, drawn.z) if trainer.path_share else None
        mixed, log_q = trainer.log_probs(drawn.z, slope).unbind(1)
        loss, log_adjustment = fab_buffer_loss(mixed, drawn.log_q, s.ais.alpha, s.max_adjustment, drawn.toward * scale)
        away = drawn.away * scale * (1 - trainer.path_share)  # path gradients have no such noise
        against = control_variate(log_q, drawn.log_q, s.max_adjustment, away)
        trainer.learn(loss + (against - against.detach()))
        buffer.adjust(drawn.index, log_adjustment, log_q.detach())


def fab_no_buffer(trainer: Trainer) -> None:
    """FAB on the annealed samples themselves, each pass used once (FAB paper, eq. 7)."""
    for _ in range(trainer.settings.updates):
        result = trainer.anneal()
        log_q = trainer.log_prob(result.points.z, result.points.grad_log_p)
        trainer.learn(pooled_loss(log_q, result.log_w, trainer.ranks))


def alpha_divergence(trainer: Trainer) -> None:
    """The alpha-divergence on weighted samples of the flow, not annealed (Müller et al. 2019, arXiv 1808.03856)."""
    s = trainer.settings
    for _ in range(s.updates):
        z, log_q = trainer.counted.sample(s.batch, trainer.generator)
        log_p, grad_log_p = trainer.lifted.log_prob_and_gradient(z)
        log_w = log_p.double() - log_q.double()
        trainer.watch(log_w)
        log_w = s.ais.alpha * log_w
        trainer.learn(pooled_loss(trainer.log_prob(z, grad_log_p), log_w, trainer.ranks))


def reverse_kl(trainer: Trainer) -> None:
    """The Kullback-Leibler divergence from the flow to the target, up to log Z, on samples of the flow.

    Where some of them have no density it is that of the others, as a distribution of their own, and their share v adds
    -log v: else the flow would gain by moving to where nothing is counted. What crosses the wall of such a hole as the
    flow moves is not in the gradient.
    """
    learner, n = trainer.learner, trainer.settings.batch
    if not hasattr(learner, "rsample"):
        raise ValueError(
            f"Expected a flow with rsample(n, generator), which is sample with a graph; {type(learner).__name__} has "
            "none. Use another objective."
        )
    for _ in range(trainer.settings.updates):
        z, log_q = learner.rsample(n, trainer.generator)
        trainer.counted.evaluations += n
        loss, inside = reverse_loss(trainer, z, log_q)
        if not inside.all():
            share = inside.double().mean()
            # grad log v = E[1 / v, or 0 outside, times grad log q]; minus E[grad log q] = 0, for less noise.
            pull = ((inside / share - 1).to(log_q) * trainer.log_prob(z)).mean()
            loss = loss - share.log().to(loss) - (pull - pull.detach())
        trainer.learn(loss)


def reverse_loss(trainer: Trainer, z: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of log q - log p over samples that have a density, the target's gradient handed on by its own formula.

    Returns
    -------
    loss : Tensor, scalar
    inside : Tensor of bool, shape (batch,)
        Which samples have one.
    """
    log_p, gradient = trainer.lifted.log_prob_and_gradient(z)
    trainer.watch(log_p - log_q.detach())
    log_p = log_p + ((z - z.detach()) * gradient).sum(1)
    difference = log_q - log_p
    inside = torch.isfinite(difference.detach())
    return difference[inside].mean(), inside


@dataclass(frozen=True)
class MaximumLikelihood:
    """Mean of -log q over samples of the target: the Kullback-Leibler divergence from the target to the flow.

    Attributes
    ----------
    samples : Tensor, shape (n, dim), or callable
        z of given samples, drawn from with replacement; or a function (n, generator) -> z that makes new ones.
    """

    samples: Tensor | Callable[[int, torch.Generator], Tensor]

    def __call__(self, trainer: Trainer) -> None:
        s = trainer.settings
        for _ in range(s.updates):
            if callable(self.samples):
                z = self.samples(s.batch, trainer.generator)
            else:
                random = trainer.generator
                drawn = torch.randint(len(self.samples), (s.batch,), generator=random, device=random.device)
                z = self.samples[drawn.to(self.samples.device)]
            trainer.learn(-trainer.log_prob(z.to(next(trainer.learner.parameters()))).mean())


OBJECTIVES: dict[str, Objective] = {
    "fab": fab,
    "fab_no_buffer": fab_no_buffer,
    "reverse_kl": reverse_kl,
    "alpha_divergence": alpha_divergence,
}


def named(name: str, samples: Tensor | None = None) -> Objective:
    """The objective of this name; "maximum_likelihood" is the one that needs samples z (n, dim), and takes them."""
    if (name == "maximum_likelihood") != (samples is not None) or name not in {*OBJECTIVES, "maximum_likelihood"}:
        raise ValueError(
            f"Expected one of {tuple(OBJECTIVES)} without samples, or maximum_likelihood with some; got {name!r} "
            f"{'without' if samples is None else 'with'} samples."
        )
    return OBJECTIVES[name] if samples is None else MaximumLikelihood(samples)


def fab_buffer_loss(
    log_q: Tensor, log_q_old: Tensor, alpha: float, max_adjustment: float, weights: Tensor | float = 1.0
) -> tuple[Tensor, Tensor]:
    """FAB with the prioritised buffer (FAB paper, algorithm 1).

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
    """Mean of c' log q with weights (batch,), where c' = q / q_old: for samples of q_old its gradient has no mean."""
    followed = (log_q.detach() - log_q_old).exp().clamp(max=max_adjustment) * weights
    return (followed.to(log_q) * log_q).mean()


def pooled_loss(log_q: Tensor, log_w: Tensor, ranks: Ranks) -> Tensor:
    """What averages over the ranks to the weighted loss of all their samples; one rank may have none with a weight."""
    share = ranks.share(log_w)
    return weighted_loss(log_q, log_w) * share if share else log_q[:0].sum()


def weighted_loss(log_q: Tensor, log_w: Tensor) -> Tensor:
    """-sum of W log q with normalised weights W towards p^alpha q^(1 - alpha), shapes (batch,).

    Its gradient is in the direction of the alpha-divergence's (FAB paper, eq. 6); samples without weight are left out,
    and nan comes of a batch that has no other.
    """
    weights = torch.where(torch.isfinite(log_w), log_w, -torch.inf).softmax(0)
    return -(weights[weights != 0] * log_q[weights != 0]).sum()
