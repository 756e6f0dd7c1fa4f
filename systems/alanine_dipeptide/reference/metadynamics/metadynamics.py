"""Reference ensemble of alanine dipeptide at 300 K: plain OpenMM, nothing of openmm_fab.

Three subcommands, each leaving files beside this script:

``run``       multiple-walker well-tempered metadynamics on (phi, psi) (Barducci, Bussi, Parrinello, PRL 100,
              020603, 2008) until the bias is good, then production with it frozen. Frames weigh exp(bias/kT).
``timestep``  the same molecule with small and with large steps: virial temperature, energy, bond lengths.
``analyse``   raw/ -> metadynamics.dcd, metadynamics_weights.npz, metadynamics.json; may be run while ``run`` goes on.

``run`` writes raw/ about every two minutes; SIGTERM ends it in good order; ``run --resume`` goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import threading
import time
from dataclasses import asdict
from pathlib import Path

import analysis
import numpy as np
import openmm as mm
from molecule import Settings, backbone, cpu_context, dihedral, load, set_hydrogen_mass

HERE = Path(__file__).resolve().parent
RAW = HERE / "raw"


# ---------------------------------------------------------------- bias


class Bias:
    """Periodic bias V(phi, psi) in kJ/mol on a grid, shared by all walkers' contexts (force group 1)."""

    def __init__(self, system: mm.System, atoms: list[int], s: Settings):
        self.s = s
        self.values = np.zeros((s.grid, s.grid))  # [phi, psi], points at -pi + 2 pi i / grid
        self.points = -np.pi + 2 * np.pi * np.arange(s.grid) / s.grid
        self.force = mm.CustomCompoundBondForce(5, "bias(dihedral(p1, p2, p3, p4), dihedral(p2, p3, p4, p5))")
        self.force.addTabulatedFunction("bias", mm.Continuous2DFunction(*self._table(), True))
        self.force.addBond(atoms, [])
        self.force.setForceGroup(1)
        system.addForce(self.force)
        self.lock = threading.Lock()

    def _table(self) -> tuple:
        closed = np.pad(self.values, ((0, 1), (0, 1)), mode="wrap")
        n = self.s.grid + 1
        return n, n, closed.T.ravel().tolist(), -np.pi, np.pi, -np.pi, np.pi

    def add_hill(self, phi: float, psi: float) -> None:
        s = self.s
        with self.lock:
            i, j = (round((a + np.pi) / (2 * np.pi) * s.grid) % s.grid for a in (phi, psi))
            height = s.hill_height * s.kT * np.exp(-self.values[i, j] / ((s.bias_factor - 1) * s.kT))
            hill = []
            for angle in (phi, psi):
                delta = (self.points - angle + np.pi) % (2 * np.pi) - np.pi
                hill.append(np.exp(-0.5 * (delta / s.hill_width) ** 2))
            self.values += height * np.outer(*hill)

    def push(self, context: mm.Context) -> None:
        with self.lock:
            self.force.getTabulatedFunction(0).setFunctionParameters(*self._table())
            self.force.updateParametersInContext(context)

    def freeze(self) -> None:
        """Take away what lies below the cap: the walls that metadynamics touched get no bias."""
        s = self.s
        floor = self.values.max() - (1 - 1 / s.bias_factor) * s.cap * s.kT
        self.values = np.maximum(self.values - max(floor, 0.0), 0.0)


# ---------------------------------------------------------------- run


class Run:
    """Walkers as free-running threads (``integrator.step`` releases the GIL); the main thread saves."""

    def __init__(self, s: Settings, resume: bool):
        self.s = s
        topology, x0, system = load()
        self.atoms = backbone(topology)
        set_hydrogen_mass(system, topology, s.hydrogen_mass)
        self.bias = Bias(system, self.atoms, s)
        self.stage, self.segment, self.steps = "metadynamics", 0, np.zeros(s.walkers, dtype=np.int64)
        saved = np.load(RAW / "state.npz") if resume else None
        if saved is not None:
            self.stage, self.segment = str(saved["stage"]), int(saved["segment"]) + 1
            self.steps, self.bias.values = saved["steps"], saved["bias"]
        self.contexts = [
            cpu_context(system, s, s.step_fs, s.seed + 1000 * self.segment + w + 1) for w in range(s.walkers)
        ]
        self.last: list[tuple[np.ndarray, np.ndarray]] = []
        for w, context in enumerate(self.contexts):
            if saved is None:
                context.setPositions(x0)
                mm.LocalEnergyMinimizer.minimize(context)
                context.setVelocitiesToTemperature(s.temperature, s.seed + w)
            else:
                context.setPositions(saved["x"][w])
                context.setVelocities(saved["v"][w])
                self.bias.push(context)
            state = context.getState(positions=True, velocities=True)
            self.last.append((state.getPositions(asNumpy=True)._value, state.getVelocities(asNumpy=True)._value))
        self.frames: list[list[tuple]] = [[] for _ in range(s.walkers)]
        self.lock, self.stop, self.failure = threading.Lock(), threading.Event(), None

    def _state(self, w: int) -> np.ndarray:
        """Positions (atoms, 3) nm, centred; keeps (x, v) for the checkpoint."""
        state = self.contexts[w].getState(positions=True, velocities=True)
        x, v = state.getPositions(asNumpy=True)._value, state.getVelocities(asNumpy=True)._value
        if not np.isfinite(x).all():
            raise RuntimeError(f"Expected finite positions of walker {w}; got nan; use a smaller --step-fs.")
        x = x - x.mean(axis=0)
        self._pending[w] = (x, v)
        return x

    def _metadynamics(self, w: int) -> None:
        s, context, hills = self.s, self.contexts[w], 0
        while not self.stop.is_set() and self.steps[w] * s.walkers * s.step_fs < s.metadynamics_ns * 1e6:
            context.getIntegrator().step(s.hill_every)
            x = self._state(w)
            self.bias.add_hill(float(dihedral(x, self.atoms[:4])), float(dihedral(x, self.atoms[1:])))
            hills += 1
            if hills % 4 == 0:
                self.bias.push(context)
            with self.lock:
                self.steps[w] += s.hill_every
                self.last[w] = self._pending[w]

    def _production(self, w: int) -> None:
        s, context = self.s, self.contexts[w]
        while not self.stop.is_set() and self.steps[w] * s.walkers * s.step_fs < s.ns * 1e6:
            context.getIntegrator().step(s.frame_every)
            x = self._state(w)
            bias, u = (context.getState(energy=True, groups={g}).getPotentialEnergy()._value / s.kT for g in (1, 0))
            with self.lock:
                self.steps[w] += s.frame_every
                self.last[w] = self._pending[w]
                if self.steps[w] * s.step_fs > s.settle_ps * 1000:
                    self.frames[w].append((x.astype(np.float32), bias, u, int(self.steps[w])))

    def _guard(self, work, w: int) -> None:
        try:
            work(w)
        except Exception as error:
            self.failure = error
            self.stop.set()

    def save(self) -> None:
        """Frames so far into a new raw/production_*.npz, then the state they end in."""
        with self.lock:
            frames, self.frames = self.frames, [[] for _ in range(self.s.walkers)]
            x, v = (np.array(a) for a in zip(*self.last, strict=True))
            steps = self.steps.copy()
        if self.stage == "production" and any(frames):
            columns = [np.array(c) for c in zip(*(f for fs in frames for f in fs), strict=True)]
            walker = np.repeat(np.arange(self.s.walkers), [len(fs) for fs in frames])
            number = len(list(RAW.glob("production_*.npz")))
            path = RAW / f"production_{number:05d}.npz"
            write_npz(path, **dict(zip(("x", "bias", "u", "step"), columns, strict=True)), walker=walker)
        state = dict(stage=self.stage, segment=self.segment, steps=steps, x=x, v=v, bias=self.bias.values)
        write_npz(RAW / "state.npz", **state)

    def go(self) -> None:
        for sig in (signal.SIGTERM, signal.SIGINT):
            signal.signal(sig, lambda *_: self.stop.set())
        while not self.stop.is_set():
            work = self._metadynamics if self.stage == "metadynamics" else self._production
            self._pending = list(self.last)
            threads = [threading.Thread(target=self._guard, args=(work, w)) for w in range(self.s.walkers)]
            start, steps0, tick = time.time(), self.steps.sum(), 0
            for t in threads:
                t.start()
            while any(t.is_alive() for t in threads):
                for t in threads:
                    t.join(timeout=15 / len(threads))
                tick += 1
                if tick % 4 == 0:
                    self.report(start, steps0)
                if tick % 8 == 0:
                    self.save()
            self.report(start, steps0)
            if self.failure:
                raise self.failure
            if self.stage == "metadynamics" and not self.stop.is_set():
                write_npz(RAW / "metadynamics.npz", bias=self.bias.values, points=self.bias.points)
                self.bias.freeze()
                for context in self.contexts:
                    self.bias.push(context)
                self.stage, self.steps = "production", np.zeros_like(self.steps)
                self.save()
                continue
            self.save()
            break
        print("ended" if not self.stop.is_set() else "stopped; `run --resume` goes on", flush=True)

    def report(self, start: float, steps0: int) -> None:
        ns = self.steps.sum() * self.s.step_fs / 1e6
        rate = (self.steps.sum() - steps0) * self.s.step_fs / 1e6 / (time.time() - start) * 3600
        deepest = self.bias.values.max() / self.s.kT
        phis = [float(dihedral(x, self.atoms[:4])) for x, _ in self.last]
        print(
            f"{time.strftime('%H:%M:%S')} {self.stage} {ns:.3f} ns, {rate:.1f} ns/h, "
            f"bias <= {deepest:.1f} kT, phi now {np.round(phis, 1).tolist()}",
            flush=True,
        )


def write_npz(path: Path, **arrays) -> None:
    """Never leaves half a file behind."""
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, **arrays)
    os.replace(partial, path)


def run(args: argparse.Namespace) -> None:
    RAW.mkdir(exist_ok=True)
    settings = RAW / "settings.json"
    given = {k: v for k, v in vars(args).items() if k in Settings.__dataclass_fields__ and v is not None}
    if args.resume:
        given = json.loads(settings.read_text()) | given
    elif any(RAW.glob("production_*.npz")) or (RAW / "state.npz").exists():
        raise SystemExit(f"Expected an empty {RAW}; got a run's files; use --resume or move them away.")
    s = Settings(**given)
    settings.write_text(json.dumps(asdict(s), indent=1))
    Run(s, args.resume).go()


def main() -> None:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    commands = parser.add_subparsers(dest="command", required=True)
    r = commands.add_parser("run", help="metadynamics, then production")
    r.add_argument("--resume", action="store_true")
    for name in ("ns", "metadynamics_ns", "cap", "walkers", "seed", "step_fs"):
        kind = type(getattr(Settings, name))
        r.add_argument("--" + name.replace("_", "-"), type=kind, help=f"default {getattr(Settings, name)}")
    t = commands.add_parser("timestep", help="check that the time-step error is negligible")
    t.add_argument("--ns", type=float, default=1.0, help="a step size, all walkers together")
    commands.add_parser("analyse", help="raw/ -> the files that are shipped")
    args = parser.parse_args()
    if args.command == "run":
        return run(args)
    return analysis.timestep(HERE, args.ns) if args.command == "timestep" else analysis.analyse(HERE)


if __name__ == "__main__":
    main()
