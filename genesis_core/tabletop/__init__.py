"""Generated robot tabletop scenes with ground truth, rendered by MuJoCo.

MuJoCo is imported when the first renderer is made, so that importing this package needs no OpenGL.
"""

from genesis_core.tabletop.gl import RenderingError
from genesis_core.tabletop.renderer import Frame, SceneObject, TabletopRenderer

__all__ = ["Frame", "RenderingError", "SceneObject", "TabletopRenderer"]
