"""Subscriptions that follow those who publish: when they pass a topic over and come back to it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from rclpy.qos import QoSProfile, ReliabilityPolicy
from std_msgs.msg import Header

from genesis_ros.node.receiver import Receiver
from genesis_ros.node.subscription import Candidate, FollowingSubscription

FIRST, SECOND = "/test/first", "/test/second"
PATIENCE = 0.5  # s


@pytest.fixture
def taken() -> list[str]:
    """Names of the messages that were received."""
    return []


@pytest.fixture
def subscription(client: Any, taken: list[str]) -> Iterator[FollowingSubscription]:
    receiver = Receiver(client.node, lambda error: pytest.fail(str(error)))
    candidates = [Candidate(topic, Header) for topic in (FIRST, SECOND)]
    subscription = FollowingSubscription(
        client.node,
        receiver,
        candidates,
        "auto",
        lambda message, info: taken.append(message.frame_id),
        depth=5,
    )
    receiver.start()
    yield subscription
    subscription.close()
    assert receiver.close(10)


def test_a_camera_that_starts_late_is_given_its_time(
    client: Any, subscription: FollowingSubscription, capfd: pytest.CaptureFixture[str]
) -> None:
    deadline = time.monotonic() + 1.5 * PATIENCE
    while time.monotonic() < deadline:
        assert not subscription.follow_publishers(PATIENCE)
        client.spin(0.05)
    for topic in (SECOND, FIRST):
        client.publisher(Header, topic, heard=False)
    assert not subscription.follow_publishers(PATIENCE)
    assert subscription.topic == FIRST
    assert "nothing has come" not in capfd.readouterr().err
    # It has no more than its time.
    client.spin(1.2 * PATIENCE)
    assert subscription.follow_publishers(PATIENCE)
    assert subscription.topic == SECOND
    assert "nothing has come" in capfd.readouterr().err


def test_a_camera_that_rests_between_its_images_is_not_silent(
    client: Any, subscription: FollowingSubscription, taken: list[str]
) -> None:
    first = client.publisher(Header, FIRST)
    client.publisher(Header, SECOND, heard=False)

    def after_resting(message: str, *, is_known: bool = True) -> None:
        deadline = time.monotonic() + 1.5 * PATIENCE
        while time.monotonic() < deadline:
            changed = subscription.follow_publishers(PATIENCE)
            assert not (changed and is_known)
            client.spin(0.05)
        first.publish(Header(frame_id=message))
        client.until(lambda: message in taken, "the message")

    after_resting("passed over before it was heard", is_known=False)
    after_resting("and once more, until its pace is known", is_known=False)
    subscription.follow_publishers(60.0)  # leaves what stood in for it
    for number in range(3):
        after_resting(f"number {number}")
    assert subscription.topic == FIRST
    # It may be dead, all the same.
    client.until(lambda: subscription.follow_publishers(PATIENCE), "the first is passed over")
    assert subscription.topic == SECOND


def test_a_topic_that_seldom_gets_through_holds_no_other_back(
    client: Any, subscription: FollowingSubscription, taken: list[str]
) -> None:
    first = client.publisher(Header, FIRST)
    second = client.publisher(Header, SECOND, heard=False)
    for number in range(4):
        deadline = time.monotonic() + 4 * PATIENCE
        while time.monotonic() < deadline:
            subscription.follow_publishers(PATIENCE)
            second.publish(Header(frame_id=f"{number} second"))
            client.spin(0.05)
        assert taken.count(f"{number} second") > 10
        first.publish(Header(frame_id=f"{number} first"))
        client.until(lambda: f"{number} first" in taken, "the first")  # noqa: B023


def test_a_topic_that_was_passed_over_is_heard_with_best_effort_too(
    client: Any, subscription: FollowingSubscription, taken: list[str]
) -> None:
    """Its driver is replaced by one that offers less, while another topic stands in for it."""
    client.publisher(Header, FIRST)
    client.publisher(Header, SECOND, heard=False)
    client.until(lambda: subscription.follow_publishers(PATIENCE), "the first is passed over")
    assert (subscription.topic, subscription.reliable) == (SECOND, True)
    qos = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
    replaced = client.publisher(Header, FIRST, qos, heard=False)

    def heard() -> bool:
        subscription.follow_publishers(60.0)  # the stand-in is silent, but stays
        replaced.publish(Header(frame_id="best effort"))
        client.spin(0.05)
        return bool(taken)

    client.until(heard, "a message of the first topic", 10)
    assert taken[0] == "best effort"
    subscription.follow_publishers(60.0)
    assert (subscription.topic, subscription.reliable) == (FIRST, False)
