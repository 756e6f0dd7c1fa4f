"""An installed bgflow on today's NumPy and PyTorch, each repair seen to be one."""

from __future__ import annotations

import importlib.util
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import openmm
import pytest
import torch

from openmm_fab.interop.bgflow.installed import identity_splines, import_bgflow
from openmm_fab.interop.bgflow.inward import from_energy


def test_without_bgflow_the_message_has_the_pip_line(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "bgflow"]:
        monkeypatch.delitem(sys.modules, name)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "bgflow" else find(name))
    with pytest.raises(ImportError, match=r'pip install "bgflow @ git\+https.*@[0-9a-f]{40}" einops nflows'):
        import_bgflow()
    with pytest.raises(ImportError, match="pip install"):
        from_energy(object())


def test_a_folder_of_that_name_is_no_bgflow(monkeypatch, tmp_path):
    for name in [name for name in sys.modules if name.split(".")[0] == "bgflow"]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "bgflow" / "docs").mkdir(parents=True)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert importlib.util.find_spec("bgflow") is not None
    with pytest.raises(ImportError, match="on no package index"):
        import_bgflow()


def test_what_bgflow_needs_is_named(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "bgflow"]:
        monkeypatch.delitem(sys.modules, name)
    there = {"bgflow": SimpleNamespace(origin="bgflow/__init__.py"), "einops": True, "nflows": None}
    monkeypatch.setattr(importlib.util, "find_spec", there.get)
    with pytest.raises(ImportError, match="not nflows, which it needs: pip install nflows"):
        import_bgflow()


def test_numpy_itself_is_left_alone(bg):
    from bgflow.distribution import normal

    assert normal.np.infty == np.inf and normal.np.float64 is np.float64
    assert normal.np is not np
    if int(np.__version__.split(".")[0]) >= 2:
        assert not hasattr(np, "infty")
    assert import_bgflow() is bg


def test_a_batch_of_three_is_no_exception(bg):
    """torch.cross without dim would take the batch for the three dimensions of space."""
    from bgflow.nn.flow.crd_transform.ic_helper import tripod

    points = torch.randn(3, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for three, four in zip(tripod(*points[:, :3]), tripod(*points), strict=True):
        torch.testing.assert_close(three, four[:3], rtol=0, atol=1e-12)
        torch.testing.assert_close(three.norm(dim=1), torch.ones(3, dtype=torch.float64))


def test_properties_and_splits_run_without_warnings(bg):
    transform = bg.GlobalInternalCoordinateTransformation(
        np.array([[0, -1, -1, -1], [1, 0, -1, -1], [2, 1, 0, -1], [3, 2, 1, 0]])
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert transform.bond_indices.tolist() == [[1, 0], [2, 1], [3, 2]]
        a, b, dlogp = bg.SplitFlow([0, 2], [1])(torch.arange(6.0).reshape(2, 3))
    assert a.tolist() == [[0, 2], [3, 5]] and b.tolist() == [[1], [4]] and dlogp.shape == (2, 1)


def test_requires_grad_is_a_context(bg):
    from bgflow.utils.autograd import requires_grad

    node = torch.zeros(2)
    with torch.no_grad(), requires_grad(node):
        assert node.requires_grad and torch.is_grad_enabled()
    assert not node.requires_grad


def test_bar_by_pymbar_names_what_to_use(bg):
    from bgflow.utils.free_energy import bennett_acceptance_ratio

    with pytest.raises(NotImplementedError, match=r"pymbar 3: use openmm_fab\.free_energy_difference_bar"):
        bennett_acceptance_ratio(torch.zeros(5), torch.zeros(5), implementation="pymbar")


def test_energies_are_never_remembered(bg, system):
    """Two batches that print alike, other atoms in the middle of the second."""
    integrator = openmm.LangevinIntegrator(system.temperature, 1.0, 0.001)
    bridge = bg.OpenMMBridge(system.system, integrator, platform_name="Reference", n_workers=1)
    energy = bg.OpenMMEnergy(bridge=bridge)
    x = torch.as_tensor(system.minimum.reshape(1, -1)).repeat(1000, 1)
    before, force = energy.energy(x), energy.force(x)
    changed = x.clone()
    changed[400:600, 4] += 0.01
    assert str(changed) == str(x)
    after = energy.energy(changed)
    assert (after[400:600] - before[400:600]).abs().min() > 0.1
    torch.testing.assert_close(after[:400], before[:400])
    assert (energy.force(changed) - force)[400:600].abs().max() > 1
    torch.testing.assert_close(energy.force(x, temperature=2.0), force / 2)


def test_a_spline_has_no_density_outside(bg):
    net = torch.nn.Linear(1, 3 * 4 * 2 + 2).double()
    spline = bg.ConditionalSplineTransformer(net, is_circular=torch.tensor([False, False]))
    y = torch.tensor([[0.2, 0.7], [0.2, 1.1], [-0.5, 0.3], [0.0, 1.0]], dtype=torch.float64)
    _, dlogp = spline.forward(torch.zeros(4, 1, dtype=torch.float64), y, inverse=True)
    assert torch.isfinite(dlogp[:, 0]).tolist() == [True, False, False, True]


@pytest.mark.parametrize("circular", [[True, True, True], [False, False, False], [True, False, True]])
def test_identity_splines(bg, circular):
    net = bg.DenseNet([2, 8, 3 * 4 * 3 + 3 - sum(circular)], activation=torch.nn.SiLU()).double()
    spline = bg.ConditionalSplineTransformer(net, is_circular=torch.tensor(circular))
    flow = bg.CouplingFlow(spline)
    x = torch.rand(20, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = torch.rand(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert flow(x, y)[2].abs().max() > 0.1
    identity_splines(flow)
    for inverse in (False, True):
        _, moved, dlogp = flow(x, y, inverse=inverse)
        torch.testing.assert_close(moved, y, rtol=0, atol=1e-12)
        assert dlogp.abs().max() < 1e-12
