"""What to call cameras, in messages and topics."""

from __future__ import annotations

from collections.abc import Sequence

from rclpy.node import Node

DEFAULT_TOPIC = "camera/image_raw"

# Parts of a topic that say what is sent rather than which camera sends it.
_GENERIC_PARTS = frozenset(
    ["image_raw", "image", "image_rect", "image_rect_raw", "image_color", "image_rect_color",
     "image_color_rect", "image_mono", "compressed", "color", "colour", "rgb", "rect"]
)  # fmt: skip


def camera_names(topics: Sequence[str], given: Sequence[str]) -> list[str]:
    """A name for the camera of each topic.

    /left/image_raw and /left/color/image_raw are called left; topics that would be called the same
    get all their parts: arm_left, head_left.

    Args:
        given: a name for each topic; "" for one after the topic.

    Raises:
        ValueError: two cameras would be called the same.
    """
    short = [name or _name_after(topic) for topic, name in zip(topics, given, strict=True)]
    long = [topic.strip("/").replace("/", "_") for topic in topics]
    names = [
        name if given[index] or short.count(name) == 1 else long[index]
        for index, name in enumerate(short)
    ]
    for name, topic in zip(names, topics, strict=True):
        if names.count(name) > 1:
            raise ValueError(
                f"several cameras would be called {name}, {topic} one of them: give each a name of "
                "its own by the parameter camera_names, and a topic of its own"
            )
    return names


def resolve_image_topic(node: Node, topic: str) -> str:
    """The full name of an image topic.

    Args:
        topic: "" is the default camera, beside the node's namespace: /genesis/perception looks at
            /camera/image_raw, /robot1/genesis/perception at /robot1/camera/image_raw.
    """
    if not topic:
        beside = node.get_namespace().rpartition("/")[0]
        topic = f"{beside}/{DEFAULT_TOPIC}"
    return resolve_topic(node, topic)


def resolve_topic(node: Node, topic: str) -> str:
    """The full name of a topic, after the node's remapping rules.

    Raises:
        ValueError: rules lead on from there, as they do where two topics are swapped. rclpy applies
            them again to whatever is subscribed to, so the node would hear the wrong topic.
    """
    resolved = node.resolve_topic_name(topic)
    if (further := node.resolve_topic_name(resolved)) != resolved:
        raise ValueError(
            f"a remapping rule leads {topic} to {resolved}, and another one leads that to "
            f"{further}: name the topics by image_topics, depth_topics and camera_info_topics"
        )
    return resolved


def _name_after(topic: str) -> str:
    parts = [part for part in topic.split("/") if part]
    own = [part for part in parts if part not in _GENERIC_PARTS]
    return own[-1] if own else "camera"
