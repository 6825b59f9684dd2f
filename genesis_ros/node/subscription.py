"""A subscription that adapts to those who publish: to their topic, type and reliability."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from rclpy.event_handler import (
    QoSMessageLostInfo,
    QoSRequestedIncompatibleQoSInfo,
    SubscriptionEventCallbacks,
)
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription

from genesis_ros.node.qos import choose_reliability, type_name


class Candidate(NamedTuple):
    """A topic (resolved) and the message type expected on it."""

    topic: str
    kind: type[Any]


class FollowingSubscription:
    """Subscribes to the first of some candidates that is published.

    candidates: in order of preference; the first one while none is published.
    reliability: best_effort, reliable or auto (see qos.choose_reliability).
    receive: called with each message in the node's executor; with its message info, too, if it
        takes two arguments. on_lost: called when the middleware says that messages were lost.
    depth: how many messages wait to be received.
    """

    def __init__(
        self,
        node: Node,
        candidates: Sequence[Candidate],
        reliability: str,
        receive: Callable[..., None],
        *,
        depth: int,
        on_lost: Callable[[QoSMessageLostInfo], None] | None = None,
    ) -> None:
        self._node = node
        self._candidates = candidates
        self._wanted = reliability
        self._receive = receive
        self._depth = depth
        self._on_lost = on_lost
        self._subscription: Subscription[Any] | None = None
        self._current = candidates[0]
        self._current, self._reliability = self._choose()
        self._subscribe()

    @property
    def topic(self) -> str:
        """The topic that is subscribed to."""
        return self._current.topic

    @property
    def reliable(self) -> bool:
        """Whether nothing gets lost on the way."""
        return self._reliability == ReliabilityPolicy.RELIABLE

    def follow_publishers(self) -> bool:
        """Adapt to those who publish now (executor thread); whether anything changed."""
        chosen = self._choose()
        if self._subscription is None or chosen == (self._current, self._reliability):
            return False
        self.close()
        self._current, self._reliability = chosen
        self._subscribe()
        return True

    def close(self) -> None:
        """End the subscription (executor thread)."""
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
            self._subscription = None

    def _choose(self) -> tuple[Candidate, ReliabilityPolicy]:
        """The first candidate that is published, else the current one; and its reliability."""
        published = (
            candidate
            for candidate in self._candidates
            if any(
                publisher.topic_type == type_name(candidate.kind)
                for publisher in self._node.get_publishers_info_by_topic(candidate.topic)
            )
        )
        chosen = next(published, self._current)
        return chosen, choose_reliability(self._node, *chosen, self._wanted)

    def _subscribe(self) -> None:
        self._subscription = self._node.create_subscription(
            self._current.kind,
            self._current.topic,
            self._receive,
            QoSProfile(
                history=HistoryPolicy.KEEP_LAST, depth=self._depth, reliability=self._reliability
            ),
            event_callbacks=SubscriptionEventCallbacks(
                message_lost=self._on_lost, incompatible_qos=self._incompatible
            ),
        )

    def _incompatible(self, event: QoSRequestedIncompatibleQoSInfo) -> None:
        if self._wanted != "auto":  # else follow_publishers() puts it right
            self._node.get_logger().warning(
                f"a publisher of {self.topic} offers best effort only, nothing is heard of it: "
                "set the parameter qos_reliability to auto or best_effort"
            )
