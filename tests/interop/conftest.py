"""bgflow where it is installed; elsewhere these tests are skipped with the line that installs it."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from generators import SMALL

from openmm_fab.generator.generator import BoltzmannGenerator
from openmm_fab.interop.bgflow.installed import import_bgflow
from openmm_fab.interop.bgflow.outward import z_matrix


@pytest.fixture(scope="session")
def bg() -> Any:
    try:
        bgflow = import_bgflow()
    except ImportError as error:
        pytest.skip(str(error))
    warnings.filterwarnings("ignore", message="your nflows version")
    return bgflow


@pytest.fixture(scope="session")
def own(system, energy):
    """A generator of ours, not trained; do not change it."""
    return BoltzmannGenerator(system, SMALL, seed=0, energy=energy)


@pytest.fixture
def built(bg, own):
    """A function that has bgflow's builder build a generator of the chain: circular splines, global coordinates."""

    def build(dtype: torch.dtype = torch.float64, seed: int = 0, prepare: Any = None) -> Any:
        from bgflow import ANGLES, BONDS, TORSIONS

        torch.manual_seed(seed)
        transform = bg.GlobalInternalCoordinateTransformation(z_matrix(own.coordinates), raise_warnings=False)
        shape = bg.ShapeDictionary.from_coordinate_transform(transform)
        builder = bg.BoltzmannGeneratorBuilder(shape, device=torch.device("cpu"), dtype=dtype)
        for what, on in ((TORSIONS, ANGLES), (ANGLES, TORSIONS), (BONDS, (ANGLES, TORSIONS)), (TORSIONS, BONDS)):
            builder.add_condition(what, on=on, hidden=(16, 16), num_bins=4)
        marginals = bg.InternalCoordinateMarginals(builder.current_dims, builder.ctx)
        x = own.sample(500).x.reshape(500, -1)
        marginals.inform_with_data(torch.as_tensor(x, dtype=dtype), transform)
        builder.add_map_to_ic_domains(marginals)
        if prepare is not None:
            prepare(builder)
        builder.add_map_to_cartesian(transform)
        return builder.build_generator(check_target=False)

    return build
