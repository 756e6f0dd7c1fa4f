"""All figures. Angles in rad with ticks at multiples of pi, free energies in kT, colours safe for the
colour-blind.

Functions return a matplotlib Figure, or draw into axes they are given; pyplot and its global state are never
used. `panels` are of one ensemble, `comparing` sets two beside each other, `molecule` draws structures, `learning` the
course of a training, `style` is what all share.
"""

from .comparing import comparison, projections
from .learning import learning_curve
from .molecule import sticks, structure_picture
from .panels import draw_surface, flow_ramachandran, profiles, ramachandran, unweighted, weight_histogram
from .style import CMAP, F_SHOWN, FLOW, REFERENCE, REWEIGHTED, angle_axis, new_figure, torsion_label

__all__ = [
    "CMAP",
    "FLOW",
    "F_SHOWN",
    "REFERENCE",
    "REWEIGHTED",
    "angle_axis",
    "comparison",
    "draw_surface",
    "flow_ramachandran",
    "learning_curve",
    "new_figure",
    "profiles",
    "projections",
    "ramachandran",
    "sticks",
    "structure_picture",
    "torsion_label",
    "unweighted",
    "weight_histogram",
]
