"""The tables of what is published, and the overlay that two of their rows share."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from std_msgs.msg import Header

from genesis_bags.decoding.images import to_rgb
from genesis_core import Perception
from genesis_core.pipeline import PerceptionSettings
from genesis_ros.messages.images import to_message
from genesis_ros.outputs import COMPRESSED_OUTPUTS, OUTPUTS, PICTURE_OUTPUTS, PROMPT_OUTPUTS, Result
from genesis_ros.pipeline import CameraMessage, perceive


def test_every_output_of_the_node_is_prompt_or_a_picture() -> None:
    split = [output.name for output in (*PROMPT_OUTPUTS, *PICTURE_OUTPUTS)]
    assert sorted(split) == sorted(output.name for output in (*OUTPUTS, *COMPRESSED_OUTPUTS))
    assert {"object_masks", "label_image"} <= {output.name for output in PROMPT_OUTPUTS}
    assert {output.name for output in PICTURE_OUTPUTS} >= {"overlay", "overlay/compressed"}


def test_the_overlay_is_drawn_once(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    perception = Perception(PerceptionSettings(str(tiny_checkpoint), "cpu"))
    message = CameraMessage(to_message(image, Header(frame_id="eye")), 0, "eye")
    (result,) = perceive(perception, [message])
    assert isinstance(result, Result)
    drawn = []
    monkeypatch.setattr(
        "genesis_ros.outputs.draw_overlay",
        lambda pixels, found, alpha, ids: drawn.append(alpha) or pixels // 2,
    )
    whole, packed = (
        next(row for row in PICTURE_OUTPUTS if row.name == name).make(result, 0.5)
        for name in ("overlay", "overlay/compressed")
    )
    assert drawn == [0.5]
    np.testing.assert_array_equal(to_rgb(whole), image // 2)
    unpacked = cv2.imdecode(np.frombuffer(packed.data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    np.testing.assert_array_equal(unpacked, image // 2)
    result.overlay(0.25)  # the setting has changed
    assert drawn == [0.5, 0.25]
