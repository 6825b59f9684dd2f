"""A subscription that adapts to those who publish: to their topic, type and reliability."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from rclpy.event_handler import (
    QoSMessageLostInfo,
    QoSRequestedIncompatibleQoSInfo,
    SubscriptionEventCallbacks,
)
from rclpy.node import Node
from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    QoSPolicyKind,
    QoSProfile,
    ReliabilityPolicy,
)
from rclpy.subscription import Subscription
from sensor_msgs.msg import Image

from genesis_bags.decoding.pixels import ImageError
from genesis_ros.messages.cdr import read_compressed_image, read_image
from genesis_ros.node.qos import (
    check_overrides,
    choose_reliability,
    is_overridden,
    type_name,
    with_overrides,
)
from genesis_ros.node.receiver import Receiver
from genesis_ros.node.throttle import Throttle

_WARNING_PERIOD = 5.0  # s between two warnings about unreadable messages


class Candidate(NamedTuple):
    """A topic (resolved) and the message type expected on it.

    Attributes:
        read: makes what is received of a message's bytes, or raises ImageError; None: rclpy makes a
            message object of them.
    """

    topic: str
    kind: type[Any]
    read: Callable[[bytes], Any] | None = None


def image_candidate(topic: str, kind: type[Any]) -> Candidate:
    """A topic of Image or CompressedImage messages, which are read where they lie."""
    return Candidate(topic, kind, read_image if kind is Image else read_compressed_image)


def is_published(node: Node, candidate: Candidate) -> bool:
    """Whether somebody publishes this type on this topic."""
    return any(
        publisher.topic_type == type_name(candidate.kind)
        for publisher in node.get_publishers_info_by_topic(candidate.topic)
    )


class _Rhythm:
    """How far apart a topic's messages come."""

    def __init__(self) -> None:
        self._last: float | None = None
        self._gaps: deque[float] = deque([0.0], maxlen=3)

    def note(self, now: float) -> None:
        """A message has come [s]."""
        if self._last is not None:
            self._gaps.append(now - self._last)
        self._last = now

    @property
    def longest(self) -> float:
        """The longest of the newest gaps [s]; 0 before there are two messages."""
        return max(self._gaps)


class FollowingSubscription:
    """Subscribes to the first of some candidates that is published.

    One that is published but silent is passed over, if another topic is published, until it is
    heard again. Silent is what rests for three times as long as it did lately, and for longer than
    the node is patient.

    Args:
        receiver: takes the messages.
        candidates: in order of preference; the first one while none is published.
        reliability: best_effort, reliable or auto (see qos.choose_reliability).
        receive: called with each message and its message info in the receiver's thread.
        depth: how many messages wait to be received.
        on_lost: called when the middleware says that messages were lost.
        on_unreadable: called with what is wrong with a message that cannot be read, and its message
            info; None: it is only warned about.
    """

    def __init__(
        self,
        node: Node,
        receiver: Receiver,
        candidates: Sequence[Candidate],
        reliability: str,
        receive: Callable[[Any, Mapping[str, Any]], None],
        *,
        depth: int,
        on_lost: Callable[[QoSMessageLostInfo], None] | None = None,
        on_unreadable: Callable[[ImageError, Mapping[str, Any]], None] | None = None,
    ) -> None:
        self._node = node
        self._receiver = receiver
        self._candidates = candidates
        self._wanted = reliability
        self._receive = receive
        self._depth = depth
        self._on_lost = on_lost
        self._may_warn = Throttle(_WARNING_PERIOD)
        self._on_unreadable = on_unreadable or self._warn_unreadable
        self._subscriptions: dict[Candidate, Subscription[Any]] = {}
        self._reliabilities: dict[Candidate, ReliabilityPolicy] = {}  # of those ever subscribed to
        # Of the receiver's thread and the executor's: who is listened to.
        self._choosing = threading.Lock()
        self._silent: list[Candidate] = []  # those passed over; they are still subscribed to
        self._rhythms: dict[Candidate, _Rhythm] = {}
        self._stood_in = 0  # messages that came while another topic was passed over
        for candidate in candidates:  # else one would fail when it is its turn
            check_overrides(node, candidate.topic, "subscription")
        self._current = candidates[0]
        self._current = self._choose()
        self._reliabilities[self._current] = self._reliability_of(self._current)
        self._heard = time.monotonic()
        self._subscribe(self._current)

    @property
    def topics(self) -> set[str]:
        """All topics that may be subscribed to."""
        return {candidate.topic for candidate in self._candidates}

    @property
    def topic(self) -> str:
        """The topic that is subscribed to."""
        return self._current.topic

    @property
    def reliable(self) -> bool:
        """Whether nothing gets lost on the way."""
        return self._reliabilities[self._current] == ReliabilityPolicy.RELIABLE

    def follow_publishers(self, patience: float) -> bool:
        """Adapt to those who publish now (executor thread).

        Args:
            patience: how long a topic that is published may be silent [s].

        Returns:
            Whether anything changed.
        """
        with self._choosing:
            return bool(self._subscriptions) and self._follow(patience)

    def _follow(self, patience: float) -> bool:
        self._pass_over(patience)
        chosen = self._choose()
        wanted = {item: self._reliability_of(item) for item in (chosen, *self._silent)}
        changed = chosen != self._current or wanted[chosen] != self._reliabilities[chosen]
        for candidate in list(self._subscriptions):
            if wanted.get(candidate) != self._reliabilities[candidate]:
                self._receiver.unsubscribe(self._subscriptions.pop(candidate))
        self._reliabilities.update(wanted)
        if changed:
            self._current, self._heard = chosen, time.monotonic()
        for candidate in wanted.keys() - self._subscriptions.keys():
            self._subscribe(candidate)
        return changed

    def unexpected_types(self) -> list[str]:
        """What is published on the topics instead of what is expected: "/topic: type", sorted."""
        expected = [(candidate.topic, type_name(candidate.kind)) for candidate in self._candidates]
        return sorted(
            {
                f"{topic}: {publisher.topic_type}"
                for topic in self.topics
                for publisher in self._node.get_publishers_info_by_topic(topic)
                if (topic, publisher.topic_type) not in expected
            }
        )

    def close(self) -> None:
        """End the subscription (executor thread)."""
        with self._choosing:
            for subscription in self._subscriptions.values():
                self._receiver.unsubscribe(subscription)
            self._subscriptions.clear()

    def _pass_over(self, patience: float) -> None:
        """Note whether the current candidate is silent while another could be heard."""
        self._silent = [
            candidate for candidate in self._silent if is_published(self._node, candidate)
        ]
        now = time.monotonic()
        if not is_published(self._node, self._current):
            self._heard = now  # it can be silent only from when it is published
        silence = now - self._heard
        rhythm = self._rhythms.get(self._current)
        if silence <= max(patience, 3 * rhythm.longest if rhythm else 0.0):
            return
        # The middleware does not take one topic with two types at a time.
        topics = {self._current.topic, *(candidate.topic for candidate in self._silent)}
        others = [
            candidate
            for candidate in self._candidates
            if candidate.topic not in topics and is_published(self._node, candidate)
        ]
        if others:
            self._silent.append(self._current)
            self._stood_in = 0
            self._node.get_logger().warning(
                f"{self._current.topic} is published, but nothing has come for {silence:.1f} s: "
                f"listening to {others[0].topic} until something does"
            )

    def _choose(self) -> Candidate:
        """The first candidate that is published and not silent, else the current one."""
        silent = {candidate.topic for candidate in self._silent}
        published = (
            candidate
            for candidate in self._candidates
            if candidate.topic not in silent and is_published(self._node, candidate)
        )
        return next(published, self._current)

    def _reliability_of(self, candidate: Candidate) -> ReliabilityPolicy:
        return choose_reliability(self._node, candidate.topic, candidate.kind, self._wanted)

    def _subscribe(self, candidate: Candidate) -> None:
        qos = QoSProfile(
            history=HistoryPolicy.KEEP_LAST,
            depth=self._depth,
            reliability=self._reliabilities[candidate],
        )
        self._subscriptions[candidate] = self._receiver.subscribe(
            candidate.kind,
            candidate.topic,
            partial(self._take, candidate),
            with_overrides(self._node, candidate.topic, "subscription", qos),
            raw=candidate.read is not None,
            event_callbacks=SubscriptionEventCallbacks(
                message_lost=self._on_lost, incompatible_qos=self._incompatible
            ),
        )

    def _take(self, candidate: Candidate, message: Any, info: Mapping[str, Any]) -> None:
        returns = candidate in self._silent
        if returns and self._stood_in > 1:  # it did not rest: what its camera sent got lost
            self._rhythms.pop(candidate, None)
        self._rhythms.setdefault(candidate, _Rhythm()).note(time.monotonic())
        if returns:
            self._return_to(candidate)
        elif self._silent:
            self._stood_in += 1
        if candidate == self._current:
            self._heard = time.monotonic()
            try:
                read = message if candidate.read is None else candidate.read(message)
            except ImageError as error:
                self._on_unreadable(error, info)
            else:
                self._receive(read, info)

    def _return_to(self, candidate: Candidate) -> None:
        with self._choosing:
            if candidate in self._silent:  # follow_publishers() may just have given it up
                self._silent.remove(candidate)
                self._current = candidate  # follow_publishers() closes the one that stood in for it
                self._node.get_logger().info(f"listening to {candidate.topic} again")

    def _warn_unreadable(self, error: ImageError, info: Mapping[str, Any]) -> None:
        if self._may_warn(error.kind, time.monotonic()) is not None:
            self._node.get_logger().warning(f"dropped a message of {self.topic}: {error}")

    def _incompatible(self, event: QoSRequestedIncompatibleQoSInfo) -> None:
        topic, policy = self.topic, _POLICY_NAMES.get(int(event.last_policy_kind), "")
        if policy and is_overridden(self._node, topic, "subscription", policy):
            self._node.get_logger().warning(
                f"a publisher of {topic} offers less {policy} than the parameter "
                f"qos_overrides.{topic}.subscription.{policy} asks for, nothing is heard of it: "
                "leave that out, or give what the publisher offers"
            )
        elif self._wanted != "auto":  # else follow_publishers() puts it right
            self._node.get_logger().warning(
                f"a publisher of {self.topic} offers best effort only, nothing is heard of it: "
                "set the parameter qos_reliability to auto or best_effort"
            )


_POLICY_NAMES: dict[int, str] = {
    QoSPolicyKind.RELIABILITY: "reliability",
    QoSPolicyKind.DURABILITY: "durability",
}
"""Of which a subscription may ask for more than a publisher offers."""


class LatchedSubscription:
    """Hears the last message of those who latch it: published transient local, maybe long ago.

    A subscription that asks for such messages hears no publisher that does not latch. So this one
    is there beside another that hears all, while somebody latches; whoever receives has to do with
    messages that come twice, or after newer ones.

    Where the user overrides the topic's durability there is none: the other subscription hears what
    the user wants heard.

    Args:
        receiver: takes the messages.
        receive: called with each message and its message info in the receiver's thread.
    """

    def __init__(
        self,
        node: Node,
        receiver: Receiver,
        candidate: Candidate,
        receive: Callable[[Any, Mapping[str, Any]], None],
    ) -> None:
        self._node = node
        self._receiver = receiver
        self._candidate = candidate
        self._receive = receive
        self._subscription: Subscription[Any] | None = None
        self.follow_publishers()

    def follow_publishers(self) -> None:
        """Subscribe if somebody latches (executor thread)."""
        topic = self._candidate.topic
        latches = not is_overridden(self._node, topic, "subscription", "durability") and any(
            publisher.topic_type == type_name(self._candidate.kind)
            and publisher.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL
            and publisher.qos_profile.reliability == ReliabilityPolicy.RELIABLE
            for publisher in self._node.get_publishers_info_by_topic(topic)
        )
        if latches and self._subscription is None:
            self._subscription = self._receiver.subscribe(
                self._candidate.kind,
                topic,
                self._receive,
                QoSProfile(
                    depth=1,
                    reliability=ReliabilityPolicy.RELIABLE,
                    durability=DurabilityPolicy.TRANSIENT_LOCAL,
                ),
                # Others, that publish beside it and do not latch, are no news.
                event_callbacks=SubscriptionEventCallbacks(incompatible_qos=lambda event: None),
            )
        elif not latches:
            self.close()

    def close(self) -> None:
        """End the subscription (executor thread)."""
        if self._subscription is not None:
            self._receiver.unsubscribe(self._subscription)
            self._subscription = None
