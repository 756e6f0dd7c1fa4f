"""The Metropolised independence sampler: detailed balance on small state spaces, a normal density, odd weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from openmm_fab.md.independence import log_acceptance, run_chain


def test_detailed_balance_of_the_rule_on_a_discrete_space() -> None:
    """Flows pi_i K_ij from counted transitions are symmetric, and the stationary distribution is pi."""
    p, q = np.array([0.5, 0.2, 0.2, 0.1]), np.array([0.1, 0.4, 0.3, 0.2])
    log_w, rng, n = np.log(p / q), np.random.default_rng(0), 400_000
    proposed, log_u = rng.choice(4, n, p=q), np.log(rng.random(n))
    weight = torch.from_numpy(log_w)
    bound = log_acceptance(weight[:, None], weight[None, :]).numpy()  # of each pair of states
    here, flows = 0, np.zeros((4, 4))
    for k in range(n):
        new = int(proposed[k]) if log_u[k] < bound[here, proposed[k]] else here
        flows[here, new] += 1
        here = new
    flows /= n
    np.testing.assert_allclose(flows.sum(1), p, atol=0.006)
    np.testing.assert_allclose(flows, flows.T, atol=5e-4)
    exact = np.minimum(p[:, None] * q[None, :], p[None, :] * q[:, None])
    np.testing.assert_allclose(flows[~np.eye(4, dtype=bool)], exact[~np.eye(4, dtype=bool)], atol=0.002)


def test_a_run_of_the_rule_is_its_steps_one_by_one() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        log_w, log_u = rng.normal(size=20), np.log(rng.random(20))
        here, last, count = 0.3, -1, 0
        for k in range(20):
            _, accepted = run_chain(here, log_w[k : k + 1], log_u[k : k + 1])
            if accepted:
                here, last, count = log_w[k], k, count + 1
        assert run_chain(0.3, log_w, log_u) == (last, count)


def test_independence_sampler_of_a_normal_density() -> None:
    """p = N(0.5, 0.8), q = N(0, 1.5)."""
    rng, n = np.random.default_rng(2), 60_000
    x = 1.5 * rng.normal(size=n)
    log_w = -0.5 * ((x - 0.5) / 0.8) ** 2 + 0.5 * (x / 1.5) ** 2
    log_u, chain_, here, log_w_here = np.log(rng.random(n)), [], 0.0, float(-0.5 * (0.5 / 0.8) ** 2)
    for k in range(n):
        if run_chain(log_w_here, log_w[k : k + 1], log_u[k : k + 1])[1]:
            here, log_w_here = x[k], float(log_w[k])
        chain_.append(here)
    assert np.mean(chain_) == pytest.approx(0.5, abs=0.03) and np.std(chain_) == pytest.approx(0.8, abs=0.02)


def test_weights_without_a_number() -> None:
    log_u = np.full(2, -0.1)
    assert run_chain(-np.inf, np.array([-np.inf, -5.0]), log_u) == (1, 1)  # out of a place without weight
    assert run_chain(3.0, np.array([-np.inf, -np.inf]), log_u) == (-1, 0)
    assert run_chain(np.inf, np.array([100.0, 5.0]), log_u) == (-1, 0)  # where the flow never goes


def test_log_acceptance_of_weights_without_a_number() -> None:
    inf = np.inf
    here = torch.tensor([0.0, 0.0, -inf, inf, inf, -inf, 0.0, 0.0])
    there = torch.tensor([-2.0, 1.0, -5.0, 7.0, inf, -inf, inf, np.nan])
    assert log_acceptance(here, there).tolist() == [-2.0, 0.0, 0.0, -inf, -inf, -inf, -inf, -inf]
    assert log_acceptance(here, there).dtype == torch.float64
