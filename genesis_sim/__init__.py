"""Generated scenes before a robot's camera, with ground truth, rendered by MuJoCo.

MuJoCo is imported when the first renderer is made, so that importing this package needs no OpenGL.
"""

from genesis_sim.frame import Frame, TrueObject
from genesis_sim.gl import RenderingError
from genesis_sim.household.renderer import HouseholdRenderer
from genesis_sim.modes import make_renderer
from genesis_sim.renderer import TabletopRenderer

__all__ = [
    "Frame",
    "HouseholdRenderer",
    "RenderingError",
    "TabletopRenderer",
    "TrueObject",
    "make_renderer",
]
