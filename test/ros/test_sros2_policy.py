"""config/sros2_policy.xml allows what node, camera and planner declare in the graph, no more."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
POLICY = ROOT / "config" / "sros2_policy.xml"

Rights = dict[str, set[str]]


def allowed(namespace: str, node: str) -> Rights:
    """Full names that the policy allows a node, by what it may do with them."""
    rights: Rights = {}
    (profile,) = ElementTree.parse(POLICY).findall(f".//profile[@ns='{namespace}'][@node='{node}']")
    for group in profile:
        assert group.tag in ("topics", "services")
        (action,) = group.attrib
        assert group.attrib[action] == "ALLOW"
        names = {str(item.text) for item in group}
        for name in names:
            private = name.replace("~", f"{namespace.rstrip('/')}/{node}")
            full = private if private.startswith("/") else f"{namespace.rstrip('/')}/{name}"
            rights.setdefault(action, set()).add(full)
    return rights


def declared(client: Any, namespace: str, node: str) -> Rights:
    queries: dict[str, Callable[..., list[tuple[str, list[str]]]]] = {
        "publish": client.node.get_publisher_names_and_types_by_node,
        "subscribe": client.node.get_subscriber_names_and_types_by_node,
        "reply": client.node.get_service_names_and_types_by_node,
        "request": client.node.get_client_names_and_types_by_node,
    }
    found = {action: {name for name, _ in ask(node, namespace)} for action, ask in queries.items()}
    return {action: names for action, names in found.items() if names}


def known(client: Any, namespace: str, node: str) -> bool:
    return (node, namespace) in client.node.get_node_names_and_namespaces()


@pytest.mark.slow
def test_policy_is_what_the_nodes_declare(
    client: Any, node_process: Any, tmp_path: Path, tiny_checkpoint: Path, photo: np.ndarray
) -> None:
    camera = {"transport": "both", "width": 64, "height": 48}
    perception = {
        "checkpoint": str(tiny_checkpoint),
        "device": "cpu",
        "depth_topics": ["/camera/depth/image_raw"],
    }
    with (
        node_process("genesis_ros.camera_node", tmp_path / "camera", camera),
        node_process("genesis_ros.perception_node", tmp_path / "node", perception) as node,
        node_process(ROOT / "examples" / "planner.py", tmp_path / "planner"),
    ):
        node.wait_for_log("active: ")
        for namespace, name in (
            ("/camera", "camera"),
            ("/genesis", "perception"),
            ("/", "planner"),
        ):
            client.until(lambda: known(client, namespace, name), name)  # noqa: B023
            expected = allowed(namespace, name)
            # compressed images are heard instead of raw ones, where only they are published
            for topic in ("image_raw/compressed", "depth/image_raw/compressedDepth"):
                expected.get("subscribe", set()).discard(f"/camera/{topic}")
            if importlib.util.find_spec("vision_msgs") is None:
                expected["publish"] -= {f"/genesis/detections_{size}d" for size in (2, 3)}
            try:
                client.until(
                    lambda: declared(client, namespace, name) == expected,  # noqa: B023
                    f"{name} declares what it may",
                    timeout=20.0,
                )
            except pytest.fail.Exception:
                assert declared(client, namespace, name) == expected
