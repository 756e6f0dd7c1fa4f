"""Chains that start in points found by other means bring a mode to the buffer that the flow does not know."""

from __future__ import annotations

import torch

from openmm_fab.flow.coupling import CouplingFlow
from openmm_fab.flow.settings import FlowSettings
from openmm_fab.target import GaussianMixture
from openmm_fab.train.distributed import Ranks
from openmm_fab.train.experience import FOUND_EVERY, Experience
from openmm_fab.train.settings import TrainSettings

SETTINGS = TrainSettings(batch=32, buffer_min=2, buffer_max=32, basin_share=0.0)
CHAINS = 16


def test_a_lost_mode_comes_to_the_buffer() -> None:
    target = GaussianMixture(2, std=0.5)
    target.modes = torch.tensor([[0.0, 0.0], [30.0, 0.0]])  # the second beyond the reach of annealing
    flow = CouplingFlow(torch.zeros(2, dtype=torch.bool), FlowSettings(layers=2, hidden=8, bins=4))
    random = torch.Generator().manual_seed(0)

    def experience() -> Experience:
        return Experience(flow, target, SETTINGS, Ranks(), random, torch.zeros(1))

    without = experience()
    without.begin(0)
    without.fill()
    assert int((target.mode_of(without.buffer.z) == 1).sum()) == 0

    found = experience()
    found.begin(0)
    found.start_from(target.modes[[1]].repeat(CHAINS, 1))
    found.fill()
    there = target.mode_of(found.buffer.z) == 1
    assert int(there.sum()) == CHAINS
    z, log_w = found.buffer.z[there], found.buffer.log_w
    # Chains move on p: they are apart, about as wide as the mode, and count no more than what else counts most.
    assert 0.2 < float((z - target.modes[1]).std()) < 1.0 and float(torch.cdist(z, z)[0, 1:].min()) > 0
    assert float(log_w[there].min()) == float(log_w.max())
    found.begin(FOUND_EVERY // 2)
    found.fill()
    assert int((target.mode_of(found.buffer.z) == 1).sum()) == CHAINS
    found.begin(FOUND_EVERY)
    found.fill()
    assert int((target.mode_of(found.buffer.z) == 1).sum()) == 2 * CHAINS
