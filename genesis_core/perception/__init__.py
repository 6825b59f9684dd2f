"""From slots to objects: found, followed from image to image, measured in depth, drawn (no ROS).

segmenter, tracker = Segmenter(default_checkpoint()), Tracker()
for stamp, image in video:                   # stamp [s], image (H, W, 3) uint8 RGB
    found = find_objects(segmenter(image))
    for item, track_id in zip(found.objects, tracker.update(found, stamp, image)):
        print(track_id, item.centroid, item.background)

genesis_core.pipeline has all of it, and depth, behind one call.
"""

from genesis_core.perception.depth import Measurement, locate
from genesis_core.perception.overlay import draw_overlay
from genesis_core.perception.scene_objects import Box, SceneObject, SceneObjects, find_objects
from genesis_core.perception.tracking import Tracker

__all__ = [
    "Box",
    "Measurement",
    "SceneObject",
    "SceneObjects",
    "Tracker",
    "draw_overlay",
    "find_objects",
    "locate",
]
