"""The flow's cost against circular spline couplings of normflows and of bgflow, its own products, and the ceilings.

12 layers, 60 coordinates (7 of them angles), 8 bins, 256 hidden units, the shape of the FAB paper's flow for alanine
dipeptide. Without normflows (pip install normflows) or bgflow (docs/bgflow.md) a peer's column is left out.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from openmm_fab.flow.coupling import CouplingFlow
from openmm_fab.flow.settings import FlowSettings
from openmm_fab.interop.bgflow.installed import import_bgflow
from openmm_fab.tools.memory import keep_freed_memory

DIM, ANGLES, LAYERS, HIDDEN, BINS = 60, 7, 12, 256, 8
PARTS = ("sample", "log_prob", "gradient to z", "gradient to parameters")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=7)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """With a small batch and nothing compiled if quick."""
    keep_freed_memory()
    torch.manual_seed(0)
    batch, repeats = (64, 2) if options.quick else (options.batch, options.repeats)
    periodic = torch.zeros(DIM, dtype=torch.bool)
    periodic[-ANGLES:] = True
    z = 0.5 * torch.randn(batch, DIM)

    ours = _stirred(CouplingFlow(periodic, FlowSettings(layers=LAYERS, hidden=HIDDEN, bins=BINS)))
    seconds = {"eager": _seconds(ours, z, repeats)}
    started = time.perf_counter()
    if not options.quick:
        ours.compile(batch)
        seconds["fused"] = _seconds(ours, z, repeats)
    cold = time.perf_counter() - started
    if not options.quick:
        ours.matmul_dtype = torch.bfloat16
        seconds["fused, bfloat16"] = _seconds(ours, z, repeats)
        ours.matmul_dtype = None
    peers = {"normflows": _normflows(periodic), "bgflow": _bgflow(periodic)}
    peers = {name: peer for name, peer in peers.items() if peer is not None}
    for name, peer in peers.items():
        seconds[name] = _seconds(_stirred(peer), z, repeats)
    products = _products(ours, batch, repeats)
    best = seconds.get("fused", seconds["eager"])
    figures: dict[str, Any] = {"batch": batch, "seconds": seconds, "products": products, "compile_and_measure": cold}
    figures["parameters"] = {
        name: sum(p.numel() for p in flow.parameters()) for name, flow in {"ours": ours, **peers}.items()
    }
    figures["ceilings"] = _ceilings(ours, batch, repeats)
    figures |= {f"{_key(part)}_over_products": best[part] / products[part][0] for part in PARTS}
    for name in peers:
        for suffix, own in (("", best), ("_bfloat16", seconds.get("fused, bfloat16", {}))):
            figures |= {f"{_key(part)}_ratio_{name}{suffix}": seconds[name][part] / own[part] for part in own}
    return figures


def title(figures: dict[str, Any]) -> str:
    return "Cost of the flow: 12 layers, 60 coordinates, 8 bins, 256 hidden units"


def _stirred(flow: nn.Module) -> nn.Module:
    """Away from the identity, where splines would be straight lines."""
    with torch.no_grad():
        for p in flow.parameters():
            p.add_(0.02 * torch.randn_like(p))
    return flow


def _normflows(periodic: torch.Tensor) -> nn.Module | None:
    """The same shape by normflows, as fab-torch builds it."""
    try:
        import normflows as nf
    except ImportError:
        return None
    circles = torch.nonzero(periodic)[:, 0].tolist()
    bound = torch.where(periodic, math.pi, 5.0)
    layers = [
        nf.flows.CircularCoupledRationalQuadraticSpline(
            DIM, 1, HIDDEN, circles, num_bins=BINS, tail_bound=bound, mask=torch.arange(DIM) % 2 == k % 2
        )
        for k in range(LAYERS)
    ]
    return nf.NormalizingFlow(nf.distributions.DiagGaussian(DIM, trainable=False), layers)


def _bgflow(periodic: torch.Tensor) -> nn.Module | None:
    """The same shape by bgflow, couplings of two halves in its units of [0, 1), the base uniform."""
    try:
        bg = import_bgflow()
        import nflows  # noqa: F401 - its splines
    except ImportError:
        return None
    warnings.filterwarnings("ignore", message="your nflows version")

    class Flow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            half = torch.arange(DIM) % 2
            self.halves = [torch.nonzero(half == k)[:, 0] for k in (0, 1)]
            self.unit = torch.where(periodic, 2 * math.pi, 2 * FlowSettings().bound)
            self.layers = nn.ModuleList(self._layer(k % 2) for k in range(LAYERS))

        def _layer(self, moved: int) -> nn.Module:
            turns, given = (periodic[self.halves[k]] for k in (moved, 1 - moved))
            sizes = [len(given) + int(given.sum()), HIDDEN, HIDDEN, 3 * BINS * len(turns) + int((~turns).sum())]
            net = bg.DenseNet(sizes, activation=nn.SiLU())
            net = bg.WrapPeriodic(net, indices=torch.nonzero(given)[:, 0])
            return bg.CouplingFlow(bg.ConditionalSplineTransformer(net, turns), (moved,), (1 - moved,))

        def _through(self, u: torch.Tensor, inverse: bool) -> tuple[torch.Tensor, torch.Tensor]:
            parts, log_det = [u[:, half] for half in self.halves], torch.zeros(len(u), 1)
            for layer in reversed(self.layers) if inverse else self.layers:
                *parts, change = layer(*parts, inverse=inverse)
                log_det = log_det + change
            whole = torch.cat(parts, 1)
            return whole[:, torch.argsort(torch.cat(self.halves))], log_det[:, 0]

        def sample(self, n: int) -> tuple[torch.Tensor, torch.Tensor]:
            u, log_det = self._through(torch.rand(n, DIM), inverse=False)
            return (u - 0.5) * self.unit, -log_det - self.unit.log().sum()

        def log_prob(self, z: torch.Tensor) -> torch.Tensor:
            return self._through(z / self.unit + 0.5, inverse=True)[1] - self.unit.log().sum()

    return Flow()


def _seconds(flow: nn.Module, z: torch.Tensor, repeats: int) -> dict[str, float]:
    """Median seconds of each part on the batch z."""
    n = len(z)

    @torch.no_grad()
    def sample() -> None:
        flow.sample(n)

    @torch.no_grad()
    def log_prob() -> None:
        flow.log_prob(z)

    def to_z() -> None:
        if hasattr(flow, "log_prob_and_gradient"):
            flow.log_prob_and_gradient(z)
        else:
            x = z.clone().requires_grad_()
            torch.autograd.grad(flow.log_prob(x).sum(), x)

    def to_parameters() -> None:
        flow.zero_grad()
        flow.log_prob(z).mean().backward()

    return dict(zip(PARTS, (_median(f, repeats) for f in (sample, log_prob, to_z, to_parameters)), strict=True))


def _median(function: Callable[[], object], repeats: int) -> float:
    for _ in range(2):
        function()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def _products(flow: CouplingFlow, batch: int, repeats: int) -> dict[str, tuple[float, float]]:
    """Seconds and floating-point operations of the conditioners' matrix products alone, a part of the flow each."""
    weights = [getattr(layer, f"w{k}").detach() for layer in flow.layers for k in (1, 2, 3)]
    inputs = [torch.randn(w.shape[1], batch) for w in weights]  # the batch last, as in the flow
    outputs = [torch.randn(w.shape[0], batch) for w in weights]

    def forward() -> None:
        for a, w in zip(inputs, weights, strict=True):
            w @ a

    def back_to_inputs() -> None:
        for g, w in zip(outputs, weights, strict=True):
            w.T @ g

    def back_to_weights() -> None:
        for g, a in zip(outputs, inputs, strict=True):
            g @ a.T

    once = 2.0 * batch * sum(w.numel() for w in weights)
    ahead, to_inputs, to_weights = (_median(f, repeats) for f in (forward, back_to_inputs, back_to_weights))
    return {
        "sample": (ahead, once),
        "log_prob": (ahead, once),
        "gradient to z": (ahead + to_inputs, 2 * once),
        "gradient to parameters": (ahead + to_inputs + to_weights, 3 * once),
    }


def _ceilings(flow: CouplingFlow, batch: int, repeats: int) -> dict[str, Any]:
    """What the machine can do, measured, and the bytes that each part moves at the very least.

    Forward, weights are read, and every activation of a conditioner is written and read. Backward, weights and
    activations are read again, and gradients of the activations written and read; those of the weights are written.
    """
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    big, copy = torch.randn(50_000_000), torch.empty(50_000_000)
    weights = [getattr(layer, f"w{k}") for layer in flow.layers for k in (1, 2, 3)]
    w, act = (sum(t.numel() for t in weights), batch * sum(t.shape[0] for t in weights))
    ahead, back = 4 * (w + 2 * act), 4 * (w + 3 * act)
    return {
        "flops": 2 * 2048**3 / _median(lambda: a @ b, repeats),
        "stream": 8 * len(big) / _median(lambda: copy.copy_(big), repeats),
        "bytes": dict(zip(PARTS, (ahead, ahead, ahead + back, ahead + back + 4 * w), strict=True)),
    }


def _roofline(figures: dict) -> str:
    """Operations and bytes over what the machine can do of each; the larger time is the floor."""
    ceilings = figures["ceilings"]
    rows = ["| | GFLOP | MB | FLOP / byte | at the ceiling of products, ms | of memory, ms | flow over the larger |"]
    rows.append("|---" * 7 + "|")
    best = figures["seconds"].get("fused", figures["seconds"]["eager"])
    for part in PARTS:
        flop, moved = figures["products"][part][1], ceilings["bytes"][part]
        floors = flop / ceilings["flops"], moved / ceilings["stream"]
        rows.append(
            f"| {part} | {flop / 1e9:.2f} | {moved / 1e6:.0f} | {flop / moved:.0f} | {1e3 * floors[0]:.1f} "
            f"| {1e3 * floors[1]:.1f} | {best[part] / max(floors):.1f} |"
        )
    return "\n".join(rows) + (
        f"\n\nCeilings, measured: a product of 2048 x 2048 matrices {ceilings['flops'] / 1e9:.0f} GFLOP/s, a copy of "
        f"200 MB {ceilings['stream'] / 1e9:.0f} GB/s. Bytes: the least, each activation written and read once; caches "
        "hold much of it."
    )


def table(figures: dict[str, Any]) -> str:
    names = list(figures["seconds"])
    rows = ["| | " + " | ".join([*(f"{name}, ms" for name in names), "products alone, ms", "GFLOP", "GFLOP/s"]) + " |"]
    rows.append("|---" * (len(names) + 4) + "|")
    for part in PARTS:
        seconds, flop = figures["products"][part]
        times = [1e3 * figures["seconds"][name][part] for name in names]
        cells = [f"{t:.1f}" for t in (*times, 1e3 * seconds)] + [f"{flop / 1e9:.2f}", f"{flop / seconds / 1e9:.0f}"]
        rows.append(f"| {part} | " + " | ".join(cells) + " |")
    parameters = ", ".join(f"{name} {count:,}" for name, count in figures["parameters"].items())
    text = ["\n".join(rows), f"Parameters: {parameters}."]
    over = ", ".join(f"{part} {figures[f'{_key(part)}_over_products']:.1f}" for part in PARTS)
    text.append(f"Times the matrix products alone: {over}.")
    for name in list(figures["parameters"])[1:]:
        for suffix, how in (("", ""), ("_bfloat16", " with products in bfloat16 (TrainSettings.matmul_dtype)")):
            ratios = {part: figures.get(f"{_key(part)}_ratio_{name}{suffix}") for part in PARTS}
            if None not in ratios.values():
                shown = ", ".join(f"{part} {ratio:.1f}" for part, ratio in ratios.items())
                text.append(f"Time of {name} over ours{how}: {shown}.")
    text.append(_roofline(figures))
    return "\n\n".join(text)


def _key(part: str) -> str:
    return {"gradient to z": "grad_z", "gradient to parameters": "grad_parameters"}.get(part, part)
