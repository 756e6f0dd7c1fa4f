"""Ensembles for other tools: read back, weights give the same averages."""

from __future__ import annotations

import builtins
import errno
import inspect
import re
from dataclasses import replace

import mdtraj
import numpy as np
import pytest
from ensembles import backbone, flat, flow

from openmm_fab.ensemble.ensemble import Ensemble, write_ensemble
from openmm_fab.tools.install import install


@pytest.fixture
def ensemble() -> Ensemble:
    found = flow(400, seed=0)
    log_w = found.log_w.copy()
    log_w[[3, 77]] = -np.inf
    return replace(found, log_w=log_w, u=np.linspace(-5.0, 5.0, 400), invalid=2, block=np.arange(400) // 40)


def read_colvar(path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """As PLUMED does: FIELDS name the columns, SET gives constants."""
    lines = path.read_text().splitlines()
    fields = next(line.split()[2:] for line in lines if line.startswith("#! FIELDS"))
    constants = dict(line.split()[2:4] for line in lines if line.startswith("#! SET"))
    rows = np.array([[float(word) for word in line.split()] for line in lines if not line.startswith("#")])
    assert rows.shape[1] == len(fields)
    return dict(zip(fields, rows.T, strict=True)), constants


def test_colvar(ensemble, tmp_path) -> None:
    columns, constants = read_colvar(ensemble.to_colvar(tmp_path / "COLVAR", {"d 1": np.arange(400.0)}))
    kept = np.setdiff1d(np.arange(400), [3, 77])
    assert columns["time"].tolist() == kept.tolist() == columns["d_1"].tolist()
    assert constants["min_phi_ALA2"] == "-pi" and constants["max_psi_ALA2"] == "pi"
    # PLUMED's REWEIGHT_BIAS: weights exp(bias / kT), bias in kJ/mol.
    kT = 0.00831446262 * 300.0
    w = np.exp(columns["bias"] / kT)
    assert w.max() == pytest.approx(1.0)
    mean = np.average(np.cos(columns["phi_ALA2"]), weights=w)
    assert mean == pytest.approx(ensemble.expectation(np.cos(ensemble.phi()[:, 0])).value, abs=1e-7)
    np.testing.assert_allclose(np.exp(columns["logweight"]), w, rtol=1e-6)
    np.testing.assert_allclose(columns["energy"], kT * ensemble.u[kept], atol=1e-6)
    assert ensemble.kT == pytest.approx(0.00831446262 * ensemble.temperature, rel=1e-8)


def test_colvar_refuses(ensemble, tmp_path) -> None:
    with pytest.raises(ValueError, match=r"shape \(400,\)"):
        ensemble.to_colvar(tmp_path / "c", {"d": np.zeros(3)})
    with pytest.raises(ValueError, match="new name"):
        ensemble.to_colvar(tmp_path / "c", {"phi ALA2": np.zeros(400)})
    with pytest.raises(ValueError, match="weight above zero"):
        flat(3, log_w=np.full(3, -np.inf)).to_colvar(tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_pandas(ensemble) -> None:
    pytest.importorskip("pandas")
    table = ensemble.to_pandas({"distance": np.arange(400.0)})
    assert list(table.columns) == ["u", "log_w", "weight", "block", "phi ALA2", "psi ALA2", "distance"]
    assert table.index.name == "frame" and len(table) == 400
    assert table["weight"].sum() == pytest.approx(1.0) and table["weight"][3] == 0.0
    by_pandas = (table["weight"] * table["phi ALA2"]).sum()
    assert by_pandas == pytest.approx(ensemble.expectation(ensemble.phi()[:, 0]).value)
    assert table.attrs == {"temperature_K": 300.0, "name": "flow", "invalid": 2}


def test_xarray(ensemble) -> None:
    pytest.importorskip("xarray")
    data = replace(ensemble, log_q=np.ones(400)).to_xarray({"distance": np.arange(400.0)})
    assert dict(data.sizes) == {"chain": 1, "draw": 400, "atom": 5, "xyz": 3}
    np.testing.assert_array_equal(data["x"][0], ensemble.x)
    assert data["x"].attrs["units"] == "nm" and data["phi ALA2"].attrs["units"] == "rad"
    mean = data["phi ALA2"].weighted(data["weight"]).mean()
    assert float(mean) == pytest.approx(ensemble.expectation(ensemble.phi()[:, 0]).value)
    assert set(data) == {"u", "log_w", "weight", "log_q", "block", "phi ALA2", "psi ALA2", "distance", "x"}
    assert "x" not in ensemble.to_xarray(positions=False)


def test_arviz(ensemble) -> None:
    pytest.importorskip("arviz_base")
    tree = ensemble.to_arviz(200, seed=1, extra={"distance": np.arange(400.0)})
    frames = tree["sample_stats"]["frame"].values[0]
    assert tree["posterior"]["phi ALA2"].shape == (1, 200)
    np.testing.assert_array_equal(tree["posterior"]["phi ALA2"].values[0], ensemble.phi()[frames, 0])
    np.testing.assert_array_equal(tree["posterior"]["distance"].values[0], frames)
    np.testing.assert_array_equal(tree["sample_stats"]["u"].values[0], ensemble.u[frames])
    np.testing.assert_array_equal(ensemble.u[frames], ensemble.resample(200, 1).u)
    assert not set(frames) & {3, 77}


@pytest.mark.parametrize("method, package", [("to_pandas", "pandas"), ("to_xarray", "xarray"), ("to_arviz", "arviz")])
def test_missing_packages_name_the_command(ensemble, monkeypatch, method, package) -> None:
    original = builtins.__import__

    def refuse(name, *rest, **options):
        if name.split(".")[0] in ("pandas", "xarray", "arviz", "arviz_base"):
            raise ImportError(name)
        return original(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match=rf"{package}.*{re.escape(install('export'))}"):
        getattr(ensemble, method)(*([10] if method == "to_arviz" else []))


def test_write_by_suffix(ensemble, tmp_path) -> None:
    assert write_ensemble(ensemble, tmp_path / "a.npz") == [tmp_path / "a.npz"]
    assert Ensemble.load(tmp_path / "a.npz").n == 400
    written = write_ensemble(ensemble, tmp_path / "a.dcd")
    assert [p.name for p in written] == ["a.dcd", "a.colvar"] and all(p.exists() for p in written)
    import mdtraj

    frames = mdtraj.load(str(written[0]), top=ensemble.topology)
    columns, _ = read_colvar(written[1])
    # The time column is the frame's number, for frames of weight zero are left out.
    phi = mdtraj.compute_phi(frames[columns["time"].astype(int)], periodic=False)[1][:, 0]
    np.testing.assert_allclose(phi, columns["phi_ALA2"], atol=1e-4)
    with pytest.raises(ValueError, match=r"a\.unknown"):
        write_ensemble(ensemble, tmp_path / "a.unknown")
    pytest.importorskip("pandas")
    write_ensemble(ensemble, tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text().startswith("frame,u,log_w,weight,block,phi ALA2")


def test_a_full_disk_is_not_called_a_wrong_suffix(ensemble, tmp_path, monkeypatch) -> None:
    def full(self, path: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(mdtraj.Trajectory, "save", full)
    with pytest.raises(OSError, match="No space left on device"):
        write_ensemble(ensemble, tmp_path / "a.dcd")


def test_names_stay_apart_in_colvar(tmp_path) -> None:
    ensemble = backbone(np.zeros(3), np.zeros(3))
    columns, _ = read_colvar(ensemble.to_colvar(tmp_path / "c", {"a b": np.ones(3), "a-b": np.zeros(3)}))
    assert columns["a_b_2"].tolist() == [1, 1, 1] and columns["a_b_3"].tolist() == [0, 0, 0]


def test_a_table_has_a_row_a_frame(ensemble) -> None:
    table = ensemble.columns({"n": np.arange(400.0)})
    assert list(table.angles) == ["phi ALA2", "psi ALA2"] and list(table.extra) == ["n"]
    np.testing.assert_array_equal(table.angles["psi ALA2"], ensemble.psi()[:, 0])
    np.testing.assert_array_equal(table.weight, ensemble.weights)
    assert table.about["temperature_K"] == 300.0 and set(table.optional) <= {"log_q", "block"}


def test_help_speaks_of_the_method(ensemble) -> None:
    for name in ("to_pandas", "to_colvar", "to_xarray", "to_arviz"):
        assert next(iter(inspect.signature(getattr(type(ensemble), name)).parameters)) == "self"
