"""Sampling into a file: the same samples as in memory, through kills and resumes, with the same statistics."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import mdtraj
import netCDF4
import numpy as np
import pytest
import torch
from examples import chain, write_chain

from openmm_fab import weights
from openmm_fab.energy.bridge import OpenMMEnergy
from openmm_fab.ensemble.ensemble import Ensemble
from openmm_fab.ensemble.netcdf import WeightedTrajectory
from openmm_fab.ensemble.stream import RunningWeights, StreamedEnsemble, sample_to_file
from openmm_fab.flow.settings import FlowSettings
from openmm_fab.generator import sampling
from openmm_fab.generator.generator import BoltzmannGenerator
from openmm_fab.generator.settings import GeneratorSettings
from openmm_fab.train.settings import TrainSettings

pytestmark = pytest.mark.base

SMALL = GeneratorSettings(flow=FlowSettings(layers=2, hidden=16, bins=4), train=TrainSettings(batch=32))


@pytest.fixture(scope="module")
def generator(system):
    with OpenMMEnergy(system, platform="Reference", workers=1) as energy:
        yield BoltzmannGenerator(system, SMALL, seed=0, energy=energy)


def test_the_file_holds_what_memory_would(generator, tmp_path) -> None:
    n = 200  # six batches and a part of one
    expected = generator.sample(n, seed=3)
    streamed = generator.sample(n, seed=3, out=tmp_path / "a.nc")
    found = Ensemble.load(tmp_path / "a.nc")
    with netCDF4.Dataset(tmp_path / "a.nc") as file:
        np.testing.assert_array_equal(file["coordinates"][:], (10 * expected.x).astype(np.float32))
    np.testing.assert_allclose(found.x, expected.x, rtol=0, atol=1e-7)
    for key in ("u", "log_w", "log_q"):
        np.testing.assert_array_equal(getattr(found, key), getattr(expected, key))
    assert found.topology == expected.topology
    assert (found.temperature, found.name, found.invalid) == (expected.temperature, "flow", expected.invalid)
    assert streamed.about["fingerprint"] == generator.system.fingerprint
    assert streamed.ess == pytest.approx(expected.ess, rel=1e-12)
    assert streamed.khat == pytest.approx(expected.khat, rel=1e-12)
    assert streamed.log_z.value == pytest.approx(expected.log_z.value, abs=1e-12)
    assert streamed.log_z.error == pytest.approx(expected.log_z.error, rel=1e-9)
    assert streamed.weights.diagnosis() == weights.diagnosis(expected.log_w)
    assert f"ESS {expected.ess:.0f}" in repr(streamed)


def test_mdtraj_reads_the_trajectory(generator, tmp_path) -> None:
    generator.sample(70, out=tmp_path / "a.nc")
    trajectory = mdtraj.load(str(tmp_path / "a.nc"), top=generator.system.md_topology)
    np.testing.assert_allclose(trajectory.xyz, Ensemble.load(tmp_path / "a.nc").x, atol=1e-6)
    assert trajectory.unitcell_lengths is None
    np.testing.assert_array_equal(trajectory.time, np.arange(70))
    with netCDF4.Dataset(tmp_path / "a.nc") as file:  # AMBER's convention; MDAnalysis warns at each frame without
        assert file["time"].dimensions == ("frame",) and file["time"].units == "picosecond"


def test_the_command_streams_and_resumes(generator, tmp_path) -> None:
    from typer.testing import CliRunner

    from openmm_fab.cli.commands import app

    molecule = write_chain(tmp_path / "chain")
    generator.save(tmp_path / "model.safetensors")
    out = tmp_path / "a.nc"
    command = ["sample", str(molecule), "--run", str(tmp_path / "model.safetensors"), "--seed", "4", "--n"]
    first = CliRunner().invoke(app, [*command, "40", "--out", str(out)])
    assert first.exit_code == 0 and "40 frames" in first.output and "ESS" in first.output, first.output
    again = CliRunner().invoke(app, [*command, "90", "--out", str(out)])
    assert again.exit_code == 1 and "resume=True" in again.output
    more = CliRunner().invoke(app, [*command, "90", "--out", str(out), "--resume"])
    assert more.exit_code == 0 and "90 frames" in more.output, more.output
    found, expected = Ensemble.load(out), generator.sample(90, seed=4)
    np.testing.assert_allclose(found.x, expected.x, atol=1e-6)
    np.testing.assert_allclose(found.log_w, expected.log_w, rtol=0, atol=1e-2)  # another backend of the energy
    wrong = CliRunner().invoke(app, [*command, "90", "--out", str(tmp_path / "a.npz"), "--resume"])
    assert wrong.exit_code == 1 and ".nc file" in wrong.output


def test_chunks_and_expectations_are_those_of_the_whole(generator, tmp_path) -> None:
    streamed = generator.sample(150, out=tmp_path / "a.nc")
    whole = streamed.load()
    chunks = list(streamed.chunks(64))
    assert [chunk.n for chunk in chunks] == [64, 64, 22]
    np.testing.assert_array_equal(np.concatenate([chunk.log_w for chunk in chunks]), whole.log_w)

    def observable(trajectory: mdtraj.Trajectory) -> np.ndarray:
        # far from zero, where sums of squares would lose the error's digits
        return 1e6 + mdtraj.compute_distances(trajectory, [[0, 4], [1, 3]], periodic=False)

    expected = weights.weighted_mean(whole.log_w, observable(whole.to_mdtraj()))
    found = streamed.expectation(observable, size=64)
    np.testing.assert_allclose(found.value, expected.value, rtol=1e-14)
    np.testing.assert_allclose(found.error, expected.error, rtol=1e-6)
    scalar = streamed.expectation(lambda t: t.xyz[:, 0, 0], size=64)
    assert isinstance(scalar.value, float)


@pytest.mark.parametrize("n", [20, 226, 5000])
def test_running_weights_are_the_weights_of_all(n: int) -> None:
    log_w = 500.0 + 2.0 * np.random.default_rng(0).standard_normal(n)
    log_w[::7] = -np.inf
    running = RunningWeights(n)
    for part in np.array_split(np.sort(log_w), 13):  # ascending: the sum's scale moves with every batch
        running.add(part)
    assert running.ess == pytest.approx(weights.effective_sample_size(log_w), rel=1e-12)
    assert running.log_mean_weight.value == pytest.approx(weights.log_mean_weight(log_w).value, abs=1e-12)
    assert running.log_mean_weight.error == pytest.approx(weights.log_mean_weight(log_w).error, rel=1e-10)
    assert running.khat == pytest.approx(weights.pareto_khat(log_w), rel=1e-12, nan_ok=True)
    assert running.invalid == (log_w == -np.inf).sum()


def test_sums_of_weights_are_float64() -> None:
    """2^24 weights of one, where float32 can count no further, and 2^15 more."""
    running = RunningWeights(1 << 25)
    for _ in range(1 << 9):
        running.add(np.zeros(1 << 15))
    running.add(np.full(1 << 15, 0.5))
    expected = (1 << 24) + (1 << 15) * np.exp(0.5)
    assert np.exp(running.log_sum) == pytest.approx(expected, rel=1e-12)
    tiny = RunningWeights(2)
    tiny.add(np.array([0.0], dtype=np.float32))
    tiny.add(np.array([np.log(1e-12)]))
    assert np.exp(tiny.log_sum) - 1 == pytest.approx(1e-12, rel=1e-3)


def test_no_weight_and_bad_weights_are_named() -> None:
    running = RunningWeights(8)
    running.add(np.full(4, -np.inf))
    with pytest.raises(ValueError, match="all 4 are zero"):
        _ = running.ess
    with pytest.raises(ValueError, match="nan or"):
        running.add(np.array([np.nan]))


def test_more_can_be_drawn_later(generator, tmp_path) -> None:
    """40, then 100, then 200: a batch that was cut is drawn again, and all is as if drawn at once."""
    for n in (40, 100, 200, 150):
        streamed = generator.sample(n, out=tmp_path / "a.nc", resume=True)
    assert streamed.n == 200
    generator.sample(200, out=tmp_path / "b.nc")
    one, other = Ensemble.load(tmp_path / "a.nc"), Ensemble.load(tmp_path / "b.nc")
    np.testing.assert_array_equal(one.x, other.x)
    np.testing.assert_array_equal(one.log_w, other.log_w)


@pytest.mark.parametrize("when", ["drawing", "writing"])
def test_ctrl_c_keeps_what_is_there(generator, tmp_path, monkeypatch, when: str) -> None:
    """In the fourth batch; one that was being written is finished first."""
    calls = 0
    owner, name = (sampling, "draw") if when == "drawing" else (WeightedTrajectory, "_put")
    real = getattr(owner, name)

    def interrupted(*args):
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(owner, name, interrupted)
    with pytest.raises(KeyboardInterrupt):
        generator.sample(200, out=tmp_path / "a.nc")
    monkeypatch.undo()
    kept = StreamedEnsemble(tmp_path / "a.nc")
    assert kept.n == (96 if when == "drawing" else 128)
    np.testing.assert_array_equal(kept.load().log_w, generator.sample(kept.n).log_w)
    generator.sample(200, out=tmp_path / "a.nc", resume=True)
    np.testing.assert_array_equal(Ensemble.load(tmp_path / "a.nc").log_w, generator.sample(200).log_w)


FULL = """
import resource, sys
from pathlib import Path
from examples import chain
from openmm_fab.tools.files import NotWrittenError
from openmm_fab.generator import BoltzmannGenerator
from ensemble.test_stream import SMALL

generator = BoltzmannGenerator(chain(Path(sys.argv[1])), SMALL)
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
try:
    generator.sample(2_000, out=sys.argv[2])
except NotWrittenError as error:
    print(error)
"""


def test_a_full_disk_is_told_and_does_not_end_the_process(tmp_path) -> None:
    """netCDF4 closes a file that it could not close once more, and crashes."""
    path, here = tmp_path / "a.nc", Path(__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(here), str(here.parent)])}
    command = [sys.executable, "-c", FULL, str(tmp_path / "chain"), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert f"{path} holds the" in done.stdout and "resume=True" in done.stdout
    generator = BoltzmannGenerator(chain(tmp_path / "chain"), SMALL)
    generator.sample(2_000, out=path, resume=True)
    np.testing.assert_array_equal(Ensemble.load(path).log_w, generator.sample(2_000).log_w)


KILLED = """
import os, signal, sys
import mdtraj, torch
from openmm_fab.ensemble import stream

stream.COMMIT_EVERY = 0.0
batches = 0

def draw(random):
    global batches
    batches += 1
    if batches == 12:
        os.kill(os.getpid(), signal.SIGKILL)
    x = torch.randn(10, 2, 3, generator=random, dtype=torch.float64)
    return x, x.sum((1, 2)), -x.square().sum((1, 2)), x[:, 0, 0]

topology = mdtraj.Topology()
residue = topology.add_residue("A", topology.add_chain())
for _ in range(2):
    topology.add_atom("C", mdtraj.element.carbon, residue)
about = {"fingerprint": "f", "temperature": 300.0, "name": "n", "seed": "5", "batch": 10, "model": "m"}
stream.sample_to_file(sys.argv[1], 1000, draw, topology, about, resume=True)
"""


def _toy(random: torch.Generator) -> tuple[torch.Tensor, ...]:
    x = torch.randn(10, 2, 3, generator=random, dtype=torch.float64)
    return x, x.sum((1, 2)), -x.square().sum((1, 2)), x[:, 0, 0]


def test_resumes_after_a_kill(tmp_path) -> None:
    """SIGKILL in the twelfth batch: eleven are there, and the rest comes as if nothing had been."""
    path = tmp_path / "a.nc"
    child = subprocess.run([sys.executable, "-c", KILLED, str(path)], capture_output=True)
    assert child.returncode == -signal.SIGKILL, child.stderr
    with WeightedTrajectory.open(path) as file:
        assert file.frames == 110
        about = {key: file.about[key] for key in ("fingerprint", "temperature", "name", "seed", "batch", "model")}
        topology = file.topology
        rows = file.frames + 10
        x, u, log_w, log_q = (part.numpy() for part in _toy(torch.Generator()))
    with WeightedTrajectory.open(path, append=True) as file:
        file.write(110, x, u=u, log_w=log_w, log_q=log_q)  # written and never committed: not looked at
    with WeightedTrajectory.open(path) as file:
        assert (file.frames, len(file._file.dimensions["frame"])) == (110, rows)
    assert StreamedEnsemble(path).n == 110
    sample_to_file(path, 500, _toy, topology, about, resume=True)
    sample_to_file(tmp_path / "b.nc", 500, _toy, topology, about)
    one, other = Ensemble.load(path), Ensemble.load(tmp_path / "b.nc")
    assert one.n == 500
    for key in ("x", "u", "log_w", "log_q"):
        np.testing.assert_array_equal(getattr(one, key), getattr(other, key))


def test_a_torn_commit_falls_back_to_the_one_before(generator, tmp_path) -> None:
    path = tmp_path / "a.nc"
    generator.sample(64, out=path)
    with WeightedTrajectory.open(path, append=True) as file:
        state = file.resume[1]
        file.commit(64, 64, state)
        torn = file._slot
    with netCDF4.Dataset(path, "r+") as raw:
        raw["resume"][torn, 100] = raw["resume"][torn, 100] ^ 1
    with WeightedTrajectory.open(path) as file:
        assert (file._slot, file.frames) == (1 - torn, 64)
    generator.sample(200, out=path, resume=True)
    np.testing.assert_array_equal(Ensemble.load(path).log_w, generator.sample(200).log_w)


def test_what_it_refuses(generator, system, tmp_path) -> None:
    path = tmp_path / "a.nc"
    generator.sample(64, out=path)
    with pytest.raises(ValueError, match=r"exists\. Go on with resume=True"):
        generator.sample(64, out=path)
    with pytest.raises(ValueError, match="'seed': '9'"):
        generator.sample(128, seed=9, out=path, resume=True)
    other = BoltzmannGenerator(system, SMALL, seed=1, energy=generator.energy)
    with pytest.raises(ValueError, match="'model'"):
        other.sample(128, seed=1, out=path, resume=True)
    with pytest.raises(ValueError, match=r"ends in \.nc"):
        generator.sample(64, out=tmp_path / "a.h5")
    with pytest.raises(ValueError, match="out or refine"):
        generator.sample(64, out=tmp_path / "b.nc", refine="ais")
    with pytest.raises(FileNotFoundError, match="none at"):
        StreamedEnsemble(tmp_path / "c.nc")
    assert StreamedEnsemble(path).n == 64


@pytest.mark.parametrize("lost", [1, 3000])
def test_a_truncated_file_is_named(generator, tmp_path, lost: int) -> None:
    path, cut = tmp_path / "a.nc", tmp_path / "cut.nc"
    generator.sample(64, out=path)
    shutil.copy(path, cut)
    os.truncate(cut, path.stat().st_size - lost)
    with pytest.raises(ValueError, match=r"cut.nc.*cut short"):
        Ensemble.load(cut)
    with pytest.raises(ValueError, match="cut short"):
        generator.sample(128, out=cut, resume=True)


@pytest.mark.parametrize("content", [b"", b"CDF\x02\x00", b"something else"])
def test_another_file_is_named(tmp_path, content: bytes) -> None:
    (tmp_path / "a.nc").write_bytes(content)
    with pytest.raises(ValueError, match=r"generator\.sample"):
        Ensemble.load(tmp_path / "a.nc")


def test_a_plain_trajectory_is_named(generator, tmp_path) -> None:
    generator.sample(10).to_mdtraj().save_netcdf(str(tmp_path / "a.nc"))
    with pytest.raises(ValueError, match=r"mdtraj\.load and Ensemble\.from_mdtraj"):
        StreamedEnsemble(tmp_path / "a.nc")


MEMORY = """
import resource, sys
import mdtraj, torch
from openmm_fab.ensemble.stream import sample_to_file

def draw(random):
    x = torch.rand(1000, 20, 3, generator=random, dtype=torch.float64)
    return x, x[:, 0, 0], x[:, 1, 0].log(), x[:, 2, 0]

topology = mdtraj.Topology()
residue = topology.add_residue("A", topology.add_chain())
for _ in range(20):
    topology.add_atom("C", mdtraj.element.carbon, residue)
about = {"fingerprint": "f", "temperature": 300.0, "name": "n", "seed": "5", "batch": 1000, "model": "m"}
peaks = []
for n in (20_000, 200_000):  # 5 and 50 MB of positions as float32, 10 and 100 MB as they are drawn
    streamed = sample_to_file(f"{sys.argv[1]}/{n}.nc", n, draw, topology, about)
    mean = streamed.expectation(lambda t: t.xyz[:, 0, 0])
    assert abs(mean.value - 0.5) < 6 * mean.error, mean
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print(peaks[1] - peaks[0])
"""


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    run = [sys.executable, "-c", textwrap.dedent(MEMORY), str(tmp_path)]
    child = subprocess.run(run, capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    assert int(child.stdout) < 15_000, f"{child.stdout} kB more for ten times the samples"
