"""Draws a MuJoCo model off-screen: colours, labels and depth, for any pinhole camera."""

from __future__ import annotations

import atexit
import weakref
from typing import Any

import numpy as np
import numpy.typing as npt

from genesis_sim import gl
from genesis_sim.geometry import from_matrix
from genesis_sim.scene import BACKGROUND, Camera

_NEAR, _FAR = 0.02, 12.0


class Screen:
    """An OpenGL context with a model on it; of the model only what is written later may change.

    Use it from the thread that made it, and close() it.

    Args:
        gl_context: from gl.create_context, of the same size.
        model: a compiled MuJoCo model whose first camera is the one to look through.
        width, height: of the images in pixels.
        most_geoms: most geoms that are visible at once.
    """

    def __init__(
        self, gl_context: Any, model: Any, width: int, height: int, *, most_geoms: int
    ) -> None:
        mj = gl.import_mujoco()
        self.width, self.height = width, height
        self.model, self.data = model, mj.MjData(model)
        self._mujoco, self._gl = mj, gl_context
        self._context = mj.MjrContext(model, mj.mjtFontScale.mjFONTSCALE_50)
        mj.mjr_setBuffer(mj.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._context.readDepthMap = mj.mjtDepthMap.mjDEPTH_ZEROFAR
        self._scene = mj.MjvScene(model, maxgeom=most_geoms)
        self._option = mj.MjvOption()
        self._camera = mj.MjvCamera()
        self._camera.type = mj.mjtCamera.mjCAMERA_FIXED
        self._camera.fixedcamid = 0
        self._viewport = mj.MjrRect(0, 0, width, height)
        self._release = weakref.finalize(self, _release, gl_context, self._context)
        # MuJoCo ends EGL at exit: registered later, this runs earlier.
        self._release.atexit = False
        atexit.register(self._release)

    def close(self) -> None:
        """Free the OpenGL context. Safe to call twice."""
        self._release()
        atexit.unregister(self._release)

    def enter(self) -> None:
        """Make the context current before the model is written.

        Raises:
            RuntimeError: it is closed.
        """
        if not self._release.alive:
            raise RuntimeError("this renderer is closed; make a new one")
        self._gl.make_current()

    def upload_mesh(self, number: int) -> None:
        """Take over a mesh that was written into the model."""
        self._mujoco.mjr_uploadMesh(self.model, self._context, number)

    def take_over_textures(self) -> None:
        """Take over which texture each material has, its repeats and whether it is uniform.

        MuJoCo's context keeps a copy of these, which it makes once.
        """
        model, context = self.model, self._context
        roles = model.mat_texid.shape[1]
        context.mat_texid[: model.nmat * roles] = model.mat_texid.ravel()
        context.mat_texuniform[: model.nmat] = model.mat_texuniform
        context.mat_texrepeat[: 2 * model.nmat] = model.mat_texrepeat.ravel()

    def prepare(self, camera: Camera) -> None:
        """Take over what was written into the model and its data, seen from a camera."""
        mj = self._mujoco
        self.model.cam_pos[0] = camera.position
        self.model.cam_quat[0] = from_matrix(camera.rotation)
        mj.mj_kinematics(self.model, self.data)
        mj.mj_camlight(self.model, self.data)
        mj.mjv_updateScene(
            self.model,
            self.data,
            self._option,
            None,
            self._camera,
            mj.mjtCatBit.mjCAT_ALL,
            self._scene,
        )
        self._aim(camera)

    def segment(self) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
        """The geom seen at each pixel (H, W), -1 for none, and depth in metres (H, W)."""
        mj, flags = self._mujoco, self._scene.flags
        flags[mj.mjtRndFlag.mjRND_SHADOW] = 0
        flags[mj.mjtRndFlag.mjRND_SEGMENT] = 1
        flags[mj.mjtRndFlag.mjRND_IDCOLOR] = 1
        ids = np.empty((self.height, self.width, 3), np.uint8)
        raw = np.empty((self.height, self.width), np.float32)
        mj.mjr_render(self._viewport, self._scene, self._context)
        mj.mjr_readPixels(ids, raw, self._viewport, self._context)
        # Inverse depth, 1 at the near plane and 0 at the far one (mjDEPTH_ZEROFAR).
        depth = _NEAR * _FAR / (_NEAR + raw[::-1].astype(np.float64) * (_FAR - _NEAR))
        return self._geoms(ids[::-1]), depth.astype(np.float32)

    def colour(self, *, shadows: bool) -> npt.NDArray[np.uint8]:
        """The prepared scene as an ideal camera sees it, RGB (H, W, 3)."""
        mj, flags = self._mujoco, self._scene.flags
        flags[mj.mjtRndFlag.mjRND_SEGMENT] = 0
        flags[mj.mjtRndFlag.mjRND_IDCOLOR] = 0
        flags[mj.mjtRndFlag.mjRND_SHADOW] = shadows
        image = np.empty((self.height, self.width, 3), np.uint8)
        mj.mjr_render(self._viewport, self._scene, self._context)
        mj.mjr_readPixels(image, None, self._viewport, self._context)
        return np.ascontiguousarray(image[::-1])

    def _aim(self, camera: Camera) -> None:
        """Set the frustum: a crop's principal point lies off its centre, which MJCF cannot say."""
        scale = _NEAR / camera.focal
        across = scale / camera.squeeze
        left, right = -camera.centre[0] * across, (self.width - camera.centre[0]) * across
        top, bottom = camera.centre[1] * scale, (camera.centre[1] - self.height) * scale
        for eye in self._scene.camera:
            eye.pos = camera.position
            eye.forward = -camera.rotation[:, 2]
            eye.up = camera.rotation[:, 1]
            eye.frustum_center = 0.5 * (left + right)
            eye.frustum_width = 0.5 * (right - left)
            eye.frustum_bottom, eye.frustum_top = bottom, top
            eye.frustum_near, eye.frustum_far = _NEAR, _FAR

    def _geoms(self, ids: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
        """Geoms (H, W) from the segment colours (H, W, 3), which hold segment id + 1."""
        segment = ids[..., 0].astype(np.int32) | (ids[..., 1].astype(np.int32) << 8)
        count = self._scene.ngeom
        table = np.full(count + 1, -1, np.int32)
        for index in range(count):
            geom = self._scene.geoms[index]
            if geom.segid >= 0 and geom.objtype == self._mujoco.mjtObj.mjOBJ_GEOM:
                table[geom.segid + 1] = geom.objid
        return table[segment]


def intrinsics(camera: Camera) -> npt.NDArray[np.float64]:
    """Pinhole matrix (3, 3) in pixels; pixel (0, 0) has its centre at (0, 0)."""
    return np.array(
        [
            [camera.focal * camera.squeeze, 0.0, camera.centre[0] - 0.5],
            [0.0, camera.focal, camera.centre[1] - 0.5],
            [0.0, 0.0, 1.0],
        ]
    )


def labels_of(geoms: npt.NDArray[np.int32], labels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Labels of the geoms seen.

    Args:
        geoms: (H, W), the geom seen at each pixel.
        labels: (G,), those of all geoms.

    Returns:
        (H, W).
    """
    return np.append(labels, np.uint8(BACKGROUND))[geoms]


def remove_specks(labels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Replace single pixels that share their label with none of their eight neighbours.

    Segmentation is drawn without antialiasing, so edges thinner than a pixel come out as loose
    dots. Such a pixel takes the label of the pixels above and below where these agree, else of
    those to the left and right, else of the one above.
    """
    padded = np.pad(labels, 1, mode="reflect")
    height, width = labels.shape
    alone = np.ones(labels.shape, bool)
    for dy in range(3):
        for dx in range(3):
            if (dy, dx) != (1, 1):
                alone &= padded[dy : dy + height, dx : dx + width] != labels
    if not alone.any():
        return labels
    result = labels.copy()
    above, below = padded[:-2, 1:-1], padded[2:, 1:-1]
    left, right = padded[1:-1, :-2], padded[1:-1, 2:]
    result[alone] = np.where(above == below, above, np.where(left == right, left, above))[alone]
    return result


def _release(gl_context: Any, context: Any) -> None:
    gl_context.make_current()
    context.free()
    gl_context.free()
