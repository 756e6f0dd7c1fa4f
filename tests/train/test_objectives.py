"""Every objective's gradient against that of its divergence by quadrature."""

from __future__ import annotations

import math

import pytest
import torch
from examples import losses_of
from torch import Tensor, nn

from openmm_fab.ais.annealing import AISSettings
from openmm_fab.target import Gaussian, Target
from openmm_fab.train.objectives import (
    OBJECTIVES,
    MaximumLikelihood,
    alpha_divergence,
    control_variate,
    fab,
    fab_buffer_loss,
    fab_no_buffer,
    objective_by_name,
    reverse_kl,
    reverse_loss,
    weighted_loss,
)
from openmm_fab.train.settings import Budget, TrainSettings
from openmm_fab.train.trainer import Trainer

X = torch.linspace(-14, 14, 400_001, dtype=torch.float64)


def _log_normal(x: Tensor, mean: Tensor | float, log_std: Tensor | float) -> Tensor:
    log_std = torch.as_tensor(log_std, dtype=torch.float64)
    return -0.5 * ((x - mean) * (-log_std).exp()) ** 2 - log_std - 0.5 * math.log(2 * math.pi)


def _log_p(x: Tensor) -> Tensor:
    """Two unequal peaks, unnormalised."""
    return torch.logaddexp(_log_normal(x, 1.2, -0.5), _log_normal(x, -0.8, -0.9) - 1.0) + 0.7


def _quantiles(log_f: Tensor, n: int) -> Tensor:
    """n samples of the density f on the grid, as even as can be: no noise."""
    f = (log_f - log_f.max()).exp()
    cumulative = torch.cumsum(f, 0) / f.sum()
    return X[torch.searchsorted(cumulative, (torch.arange(n, dtype=torch.float64) + 0.5) / n)]


@pytest.mark.parametrize("alpha", [2.0, 1.5])
@pytest.mark.parametrize("moved", [0.0, 0.15])
def test_gradient_is_that_of_the_alpha_divergence(alpha, moved):
    """Samples of p^alpha q_old^(1 - alpha), a flow that has moved on: grad of int p^alpha q^(1 - alpha) / Z_old."""
    old = torch.tensor([0.1, 0.3], dtype=torch.float64)
    now = (old + moved * torch.tensor([1.0, -1.0])).requires_grad_()
    log_f_old = alpha * _log_p(X) + (1 - alpha) * _log_normal(X, *old)
    log_f = alpha * _log_p(X) + (1 - alpha) * _log_normal(X, *now)
    divergence = torch.trapezoid(log_f.exp(), X) / torch.trapezoid(log_f_old.exp(), X)
    (exact,) = torch.autograd.grad(divergence / (alpha - 1), now)

    x = _quantiles(log_f_old, 200_000)
    loss, _ = fab_buffer_loss(_log_normal(x, *now), _log_normal(x, *old), alpha, max_adjustment=1e6)
    (gradient,) = torch.autograd.grad(loss, now)
    assert exact.norm() > 0.2
    torch.testing.assert_close(gradient, exact, rtol=2e-3, atol=1e-3)


def test_the_control_variate_has_no_mean():
    """Integrated over samples of the flow as it was, weighted towards the flow as it is."""
    old = torch.tensor([0.1, 0.3], dtype=torch.float64)
    now = (old + torch.tensor([0.15, -0.1])).requires_grad_()
    x = _quantiles(_log_normal(X, *old), 200_000)
    gradients = []
    for weights in (torch.ones_like(x), (x > 0).double()):
        mean = control_variate(_log_normal(x, *now), _log_normal(x, *old), 1e6, weights)
        gradients.append(torch.autograd.grad(mean, now)[0])
    assert gradients[0].norm() < 1e-3 < 0.1 < gradients[1].norm()


def test_at_its_minimum_the_flow_is_the_target():
    """For p in the flow's family the gradient vanishes at q = p, and nowhere near."""
    at = {}
    for shift in (0.0, 0.2):
        now = torch.tensor([0.5 + shift, -0.3], dtype=torch.float64, requires_grad=True)
        x = _quantiles(2 * _log_normal(X, 0.5, -0.3) - _log_normal(X, *now.detach()), 100_000)
        log_q = _log_normal(x, *now)
        (gradient,) = torch.autograd.grad(fab_buffer_loss(log_q, log_q.detach(), 2.0, 10.0)[0], now)
        at[shift] = float(gradient.norm())
    assert at[0.0] < 1e-3 < 0.1 < at[0.2]


def test_adjustment():
    """The loss cuts it, the buffer gets all of it, and no gradient flows through it."""
    log_q_old = torch.zeros(3)
    log_q = torch.tensor([0.0, 1.0, -5.0], requires_grad=True)
    loss, log_adjustment = fab_buffer_loss(log_q, log_q_old, alpha=2.0, max_adjustment=10.0)
    torch.testing.assert_close(log_adjustment, torch.tensor([0.0, -1.0, 5.0]))
    assert not log_adjustment.requires_grad
    loss.backward()
    torch.testing.assert_close(log_q.grad, -torch.tensor([1.0, math.exp(-1.0), 10.0]) / 3)


class Normal(nn.Module):
    """A flow of one coordinate with two parameters: mean and log of the deviation."""

    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.tensor([0.1, 0.3], dtype=torch.float64))

    def log_prob(self, z: Tensor) -> Tensor:
        return _log_normal(z[:, 0], *self.theta)

    def rsample(self, n: int, rng: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        noise = torch.randn(n, 1, generator=rng, dtype=torch.float64)
        z = self.theta[0] + self.theta[1].exp() * noise
        return z, self.log_prob(z)

    def sample(self, n: int, rng: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            return self.rsample(n, rng)

    def log_prob_and_gradient(self, z: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self.theta.detach()
        return self.log_prob(z).detach(), (mean - z) * (-2 * log_std).exp()


class Peaks(Target):
    dim, periodic = 1, torch.zeros(1, dtype=torch.bool)

    def log_prob(self, z: Tensor) -> Tensor:
        return _log_p(z[:, 0])


class Half(Peaks):
    """No density below -0.5."""

    def log_prob(self, z: Tensor) -> Tensor:
        return torch.where(z[:, 0] > -0.5, super().log_prob(z), -torch.inf)


LOG_Z = torch.logsumexp(_log_p(X), 0) + (X[1] - X[0]).log()


def _samples(n: int, rng: torch.Generator) -> Tensor:
    """Exact, from the quantiles of a grid."""
    cumulative = torch.cumsum((_log_p(X) - LOG_Z).exp(), 0) * (X[1] - X[0])
    u = torch.rand(n, generator=rng, dtype=torch.float64)
    return X[torch.searchsorted(cumulative, u).clamp(max=len(X) - 1)][:, None]


def _kl_to_target(theta: Tensor) -> Tensor:
    log_q = _log_normal(X, *theta)
    return torch.trapezoid(log_q.exp() * (log_q - _log_p(X)), X)


def _kl_from_target(theta: Tensor) -> Tensor:
    return -torch.trapezoid((_log_p(X) - LOG_Z).exp() * _log_normal(X, *theta), X)


def _alpha_divergence(theta: Tensor, alpha: float = 2.0) -> Tensor:
    """log of the integral of p^alpha q^(1 - alpha), over alpha - 1: what self-normalised weights descend."""
    return torch.logsumexp(alpha * _log_p(X) + (1 - alpha) * _log_normal(X, *theta), 0) / (alpha - 1)


EXACT = {
    "reverse_kl": (reverse_kl, _kl_to_target),
    "maximum_likelihood": (MaximumLikelihood(_samples), _kl_from_target),
    "alpha_divergence": (alpha_divergence, _alpha_divergence),
    "fab_no_buffer": (fab_no_buffer, _alpha_divergence),
    "fab": (fab, _alpha_divergence),
}


def _trainer(
    objective, target: Target | None = None, batch: int = 4000, updates: int = 16, filling: int = 4
) -> Trainer:
    settings = TrainSettings(
        batch=batch,
        updates=updates,
        buffer_min=filling * updates,
        buffer_max=filling * updates,
        basin_share=0.0,
        ais=AISSettings(intermediate=2, leapfrogs=3, step_size=0.4),
    )
    random = torch.Generator().manual_seed(0)
    return Trainer(
        Normal(), target or Peaks(), Budget(iterations=10), settings=settings, rng=random, objective=objective
    )


@pytest.mark.parametrize("name", EXACT)
def test_gradients_are_those_of_the_divergence(name):
    """Mean over independent batches of an unmoved flow, in its standard errors; and it is no zero."""
    objective, divergence = EXACT[name]
    theta = torch.tensor([0.1, 0.3], dtype=torch.float64, requires_grad=True)
    (exact,) = torch.autograd.grad(divergence(theta), theta)
    # A draw without replacement is one by weights only if it is small beside the buffer.
    trainer = _trainer(objective, batch=800, updates=12, filling=40) if name == "fab" else _trainer(objective)
    gradients = torch.stack(
        [torch.autograd.grad(loss, trainer.learner.flow.theta)[0] for loss in losses_of(objective, trainer)]
    )
    assert len(gradients) == trainer.settings.updates
    error = gradients.std(0) / len(gradients) ** 0.5
    z = (gradients.mean(0) - exact) / error
    assert (error < 0.05 * exact.abs().max()).all() and exact.abs().min() > 0.05
    # Self-normalised weights are biased by O(1 / batch), here well below the errors.
    assert z.abs().max() < 4, (gradients.mean(0), exact, error)


def test_reverse_kl_values_are_the_divergence():
    trainer = _trainer(reverse_kl)
    values = torch.stack([loss.detach() for loss in losses_of(reverse_kl, trainer)])
    exact = float(_kl_to_target(torch.tensor([0.1, 0.3], dtype=torch.float64)))
    assert abs(float(values.mean()) - exact) < 4 * float(values.std()) / len(values) ** 0.5


def test_reverse_kl_hands_on_the_whole_gradient_of_the_target():
    """In several dimensions: each is pulled by its own slope."""
    target = Gaussian(torch.tensor([0.0, 1.0, -2.0]).double(), torch.tensor([1.0, 0.5, 2.0]).double())
    z = torch.randn(64, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    shift = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    loss, _ = reverse_loss(_trainer(reverse_kl, target).experience, z + shift, torch.zeros(64, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(loss, shift)
    torch.testing.assert_close(gradient, ((z - target.mean) / target.std.square()).mean(0))


def test_reverse_kl_leaves_out_samples_without_density():
    trainer = _trainer(reverse_kl, Half(), updates=1)
    (loss,) = losses_of(reverse_kl, trainer)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(trainer.learner.flow.theta.grad).all()
    assert 0.2 < (trainer.experience._recent[-1] == -torch.inf).double().mean() < 0.5  # and counts them


def test_reverse_kl_adds_minus_the_logarithm_of_the_share_with_density():
    """By quadrature: what it adds to the mean over those samples, and its gradient."""
    with_share, without = (_trainer(reverse_kl, Half(), updates=16) for _ in range(2))
    theta = without.learner.flow.theta
    exact = -torch.trapezoid(torch.where(X > -0.5, _log_normal(X, *theta).exp(), 0.0), X).log()
    (slope,) = torch.autograd.grad(exact, theta)
    values, slopes = [], []
    for loss in losses_of(reverse_kl, with_share):
        plain, _ = reverse_loss(without.experience, *without.learner.flow.rsample(without.settings.batch, without.rng))
        values.append(float(loss.detach() - plain.detach()))
        gradients = (
            torch.autograd.grad(part, of)[0] for part, of in ((loss, with_share.learner.flow.theta), (plain, theta))
        )
        slopes.append(next(gradients) - next(gradients))
    values, slopes = torch.tensor(values)[:, None], torch.stack(slopes)
    for found, wanted in ((values, exact.detach()), (slopes, slope)):
        error = found.std(0) / len(found) ** 0.5
        assert (error < 0.1 * wanted.abs().max()).all() and ((found.mean(0) - wanted).abs() < 4 * error).all()


def test_reverse_kl_does_not_move_to_where_nothing_is_counted():
    trainer = _trainer(reverse_kl, Half(), batch=200, updates=1)
    with torch.no_grad():
        trainer.learner.flow.theta.copy_(torch.tensor([-1.2, 0.0]))  # three quarters lie there
    optimizer = torch.optim.Adam(trainer.learner.flow.parameters(), lr=0.05)
    for _ in range(150):
        optimizer.zero_grad()
        (loss,) = losses_of(reverse_kl, trainer)
        loss.backward()
        optimizer.step()
    assert float((trainer.experience._recent[-1] == -torch.inf).double().mean()) < 0.1


@pytest.mark.parametrize("name", EXACT)
def test_steps_are_counted(name):
    """Evaluations of target and flow, by hand: a pass of annealing has one for its start, and one a leapfrog step."""
    objective, _ = EXACT[name]
    trainer = _trainer(objective, batch=10, updates=2)
    losses_of(objective, trainer)
    # Of the middle third, where q has an exponent, two gradients of the flow: at the start and the end of its moves.
    passes = {"fab": 8, "fab_no_buffer": 2}.get(name, 0)
    target = {"reverse_kl": 2, "alpha_divergence": 2}.get(name, passes * 7)
    assert trainer.target.evaluations == 10 * target
    flow = {"reverse_kl": 2, "maximum_likelihood": 2, "alpha_divergence": 4}
    # sample, then per density a gradient at the start where none is known and one a leapfrog step; then the loss
    assert trainer.learner.counted.evaluations == 10 * flow.get(name, passes * (1 + 1 + 3 + 3) + 2)


def test_reverse_kl_needs_samples_with_a_graph():
    class Plain:
        pass

    trainer = _trainer(reverse_kl)
    trainer.learner.flow = Plain()
    with pytest.raises(ValueError, match="Expected a flow with rsample"):
        losses_of(reverse_kl, trainer)


def test_maximum_likelihood_draws_from_given_samples():
    samples = torch.arange(3.0, dtype=torch.float64)[:, None]
    trainer = _trainer(MaximumLikelihood(samples), batch=3000, updates=1)
    (loss,) = losses_of(trainer.objective, trainer)
    exact = -trainer.learner.flow.log_prob(samples).detach()
    assert float(loss.detach()) == pytest.approx(float(exact.mean()), abs=5 * float(exact.std()) / 3000**0.5)


def test_weighted_loss():
    log_q = torch.tensor([-1.0, -2.0, -3.0, torch.nan], requires_grad=True)
    loss = weighted_loss(log_q, torch.tensor([0.0, math.log(3.0), -torch.inf, torch.nan]))
    assert float(loss) == pytest.approx(0.25 * 1 + 0.75 * 2)
    loss.backward()
    torch.testing.assert_close(log_q.grad, torch.tensor([-0.25, -0.75, 0.0, 0.0]))


def test_names():
    for name, objective in OBJECTIVES.items():
        assert objective_by_name(name) is objective
    assert isinstance(objective_by_name("maximum_likelihood", torch.zeros(3, 1)), MaximumLikelihood)
    for wrong in (("maximum_likelihood", None), ("fab", torch.zeros(3, 1)), ("fob", None)):
        with pytest.raises(ValueError, match="Expected one of"):
            objective_by_name(*wrong)
