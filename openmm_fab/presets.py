"""Named settings of a whole run, each for a kind of machine and of patience."""

from __future__ import annotations

from dataclasses import dataclass, field

from .flow import FlowSettings
from .generator import GeneratorSettings
from .train import TrainSettings


@dataclass(frozen=True)
class Preset:
    """Settings of a run.

    Attributes
    ----------
    minutes : float
        Training time, compilation included.
    samples : int
        Flow samples in the final ensemble.
    settings : GeneratorSettings
    """

    minutes: float
    samples: int
    settings: GeneratorSettings = field(default_factory=GeneratorSettings)


PRESETS = {
    "smoke": Preset(
        minutes=1.2,
        samples=4_000,
        settings=GeneratorSettings(
            flow=FlowSettings(layers=8, hidden=64),
            # Path gradients: quicker at first, which is all there is here.
            train=TrainSettings(batch=128, updates=2, buffer_min=8, path_gradient=0.7, path_above=0.0),
        ),
    ),
    "laptop": Preset(minutes=18.0, samples=200_000),
    # A small batch would leave a GPU idle; a large one is worth longer steps of a larger flow.
    "gpu": Preset(
        minutes=5.0,
        samples=200_000,
        settings=GeneratorSettings(
            flow=FlowSettings(hidden=256),
            train=TrainSettings(batch=16384, updates=4, buffer_min=4, buffer_max=32, learning_rate=1e-3),
        ),
    ),
}
