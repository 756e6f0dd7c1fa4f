"""Training and sampling on one device: no tensor stays behind on the CPU.

Tensors of the device "meta" have shapes and no values. Where they meet one of the CPU in an operation that CUDA would
refuse, `OneDevice` does: so whatever runs on it, runs on a GPU as far as devices go.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import openmm_fab as fab
from openmm_fab.ais.kernels import hmc, widths
from openmm_fab.ais.path import AnnealedDensity, Path, Points
from openmm_fab.flow.coupling import CouplingFlow
from openmm_fab.flow.settings import FlowSettings
from openmm_fab.generator.generator import BoltzmannGenerator
from openmm_fab.generator.settings import GeneratorSettings
from openmm_fab.tools import devices
from openmm_fab.train import pathwise
from openmm_fab.train.lifting import BiasedTarget
from openmm_fab.train.objectives import fab_buffer_loss
from openmm_fab.train.settings import Budget, TrainSettings
from openmm_fab.train.trainer import Trainer

SMALL = GeneratorSettings(
    flow=FlowSettings(layers=2, hidden=16), train=TrainSettings(batch=16, updates=1, buffer_min=2, buffer_max=4)
)


@pytest.fixture(scope="module", params=["alanine_dipeptide", "alanine_tetrapeptide", "alanine_hexapeptide"])
def generator(request: pytest.FixtureRequest) -> BoltzmannGenerator:
    """With rotors; with constraints and their metric; with more atoms than are fused."""
    return BoltzmannGenerator(fab.MolecularSystem.load(request.param), SMALL, device="meta")


def z_of(generator: BoltzmannGenerator) -> Tensor:
    return torch.zeros(16, generator.coordinates.dim, device="meta")


def x_of(generator: BoltzmannGenerator) -> Tensor:
    return torch.zeros(16, generator.system.n_atoms, 3, device="meta", dtype=torch.float64)


class OneDevice(TorchDispatchMode):
    """Refuses operations on two devices, but copies, numbers, and the CPU's index of a row, which CUDA takes, too."""

    ALLOWED = (torch.ops.aten._to_copy, torch.ops.aten.copy_, torch.ops.aten.index)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        devices = {t.device.type for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor) and t.ndim}
        if len(devices) > 1 and func.overloadpacket not in self.ALLOWED:
            raise RuntimeError(f"{func} of tensors on {sorted(devices)}")
        return func(*args, **kwargs)


@pytest.fixture(autouse=True)
def one_device() -> Iterator[None]:
    with OneDevice():
        yield


def test_what_was_left_behind_is_seen() -> None:
    """Else the tests below could not fail."""
    here, there, index = torch.zeros(3), torch.zeros(3, device="meta"), torch.tensor([0, 1])
    for mixed in (
        lambda: here + there,
        lambda: torch.where(here > 0, there, 0.0),
        lambda: torch.cat([here, there]),
        lambda: there.index_select(0, index),
        lambda: there.gather(0, index),
    ):
        with pytest.raises(RuntimeError, match=r"of tensors on \['cpu', 'meta'\]|expected device|same device"):
            mixed()
    assert len(there[index]) == 2 and here.to(there).device.type == "meta"


def test_flow(generator) -> None:
    flow, z = generator.flow, z_of(generator)
    for found in (*flow.sample(16), *flow.rsample(16), *flow.log_prob_and_gradient(z), *flow.to_base(z)):
        assert found.device.type == "meta"
    flow.log_prob(z).mean().backward()
    assert all(p.grad.device.type == "meta" for p in flow.parameters())


def test_coordinates(generator) -> None:
    coordinates, x = generator.coordinates, x_of(generator)
    found, log_det = coordinates.to_cartesian(z_of(generator).double())
    assert found.shape == x.shape and found.device.type == log_det.device.type == "meta"
    z, log_det = generator.to_internal(x)
    assert z.shape == (16, coordinates.dim) and z.device.type == log_det.device.type == "meta"
    # From the computer's own memory, and labels drawn there.
    assert generator.to_internal(torch.zeros(x.shape, dtype=torch.float64))[0].device.type == "meta"
    assert coordinates.relabelled(x, torch.Generator()).device.type == "meta"


@pytest.fixture
def uncounted(monkeypatch) -> None:
    """The energy counts its invalid structures, which takes a value."""
    monkeypatch.setattr(Tensor, "__int__", lambda self: 0)


def test_energy_and_target(generator, uncounted) -> None:
    u = generator.energy(x_of(generator))
    log_p, gradient = generator.target.log_prob_and_gradient(z_of(generator))
    assert u.device.type == log_p.device.type == gradient.device.type == "meta"


def test_annealing_and_losses(generator, uncounted) -> None:
    flow, z, random = generator.flow, z_of(generator), torch.Generator()
    target = BiasedTarget(generator.target, 0.05)
    target.coefficients = torch.zeros_like(target.coefficients)  # those of `update` are on the CPU, too
    points, acceptance = hmc(Points.at(z, flow, target), AnnealedDensity(Path(), 0.5, flow, target), 0.1, 3, random)
    steps = 0.1 * widths(z, acceptance.double(), generator.target.periodic).float()
    points, acceptance = hmc(points, AnnealedDensity(Path(), 0.3, flow, target), steps, 4, random, flow_every=2)
    gradient = target.add_bias(points.grad_log_p, points.z)
    log_q = pathwise.log_probs(flow, points.z, gradient, 2.0, 0.5)[:, 0]
    loss, change = fab_buffer_loss(log_q, points.log_q, 2.0, 10.0)
    loss.backward()
    assert points.z.device.type == acceptance.device.type == change.device.type == "meta"


def test_the_flow_starts_alike_on_every_device(monkeypatch) -> None:
    """Its first weights are drawn on the CPU, and moved."""
    moved = []
    monkeypatch.setattr(CouplingFlow, "to", lambda flow, device: moved.append(device) or flow)
    system, meta = fab.MolecularSystem.load("butane"), torch.device("meta")
    one, other = (BoltzmannGenerator(system, SMALL, seed=3, device=device).flow for device in ("cpu", meta))
    assert moved == [torch.device("cpu"), meta]
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_trainer_keeps_its_tensors_where_the_flow_is() -> None:
    generator = BoltzmannGenerator(fab.MolecularSystem.load("butane"), SMALL, device="meta")
    settings = TrainSettings(batch=16, updates=1, buffer_min=2, buffer_max=4)
    trainer = Trainer(generator.flow, generator.target, Budget(iterations=1), settings=settings, rng=torch.Generator())
    assert trainer.experience.buffer.z.device.type == next(trainer.learner.flow.parameters()).device.type == "meta"


def test_checkpoints_belong_to_their_device() -> None:
    """The state of a CUDA generator is none of a CPU's."""
    system = fab.MolecularSystem.load("butane")
    assert "device" not in BoltzmannGenerator(system, SMALL)._about()
    assert BoltzmannGenerator(system, SMALL, device="meta")._about()["device"] == "meta"


@pytest.mark.parametrize("device", ["cuda:99", "gpu", "xpu"])
def test_a_device_that_is_not_there(device) -> None:
    with pytest.raises(ValueError, match=r'Expected a device that PyTorch can use, such as "cpu" or "cuda"; got'):
        devices.checked(device)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_trains_and_samples(tmp_path) -> None:
    system = fab.MolecularSystem.load("butane")
    generator = BoltzmannGenerator(system, SMALL, device="cuda")
    generator.train(Budget(iterations=30), folder=tmp_path, progress=False)
    found = generator.sample(2000)
    assert math.isfinite(found.log_z.value) and found.ess_fraction > 0.01
    generator.save(tmp_path / "model.safetensors")
    read = BoltzmannGenerator.load(tmp_path / "model.safetensors", system)
    torch.testing.assert_close(read.log_prob(found.x[:50]), generator.log_prob(found.x[:50]), atol=1e-3, rtol=0)
