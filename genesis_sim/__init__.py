"""Generated robot tabletop scenes with ground truth, rendered by MuJoCo.

MuJoCo is imported when the first renderer is made, so that importing this package needs no OpenGL.
"""

from genesis_sim.gl import RenderingError
from genesis_sim.renderer import Frame, SceneObject, TabletopRenderer

__all__ = ["Frame", "RenderingError", "SceneObject", "TabletopRenderer"]
