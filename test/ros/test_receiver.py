"""The thread that takes camera messages: one subscription's trouble is not the others'."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile, ReliabilityPolicy, qos_policy_name_from_kind
from std_msgs.msg import ColorRGBA, Header

from genesis_ros.node.receiver import Receiver

TOPIC, OTHER = "/test/received", "/test/other"
QOS = QoSProfile(depth=5)


@pytest.fixture
def errors() -> list[Exception]:
    return []


@pytest.fixture
def receiver(client: Any, errors: list[Exception]) -> Iterator[Receiver]:
    receiver = Receiver(client.node, errors.append)
    receiver.start()
    yield receiver
    assert receiver.close(10)


def test_an_error_is_reported_and_the_next_message_is_taken(
    client: Any, receiver: Receiver, errors: list[Exception]
) -> None:
    taken: list[tuple[str, str]] = []

    def take(message: Header, info: Any) -> None:
        if message.frame_id == "bad":
            raise ValueError("a bad message")
        taken.append((message.frame_id, threading.current_thread().name))

    receiver.subscribe(Header, TOPIC, take, QOS)
    publisher = client.publisher(Header, TOPIC)
    for name in ("first", "bad", "last"):
        publisher.publish(Header(frame_id=name))
    client.until(lambda: len(taken) == 2, "the good messages")
    assert taken == [("first", "receiver"), ("last", "receiver")]
    assert [str(error) for error in errors] == ["a bad message"]


def test_a_topic_that_is_given_up_is_free_for_another_type(client: Any, receiver: Receiver) -> None:
    taken: list[Any] = []
    for kind in (Header, ColorRGBA, Header):
        subscription = receiver.subscribe(kind, TOPIC, lambda m, info: taken.append(m), QOS)
        publisher = client.publisher(kind, TOPIC)
        publisher.publish(kind())
        client.until(lambda: taken, "a message")
        assert type(taken.pop()) is kind
        client.node.destroy_publisher(publisher)
        receiver.unsubscribe(subscription)


def test_nothing_comes_after_the_end(client: Any, receiver: Receiver) -> None:
    taken: list[Header] = []
    others: list[Header] = []
    kept = receiver.subscribe(Header, TOPIC, lambda m, info: taken.append(m), QOS)
    receiver.subscribe(Header, OTHER, lambda m, info: others.append(m), QOS)
    first, second = client.publisher(Header, TOPIC), client.publisher(Header, OTHER)
    receiver.unsubscribe(kept)
    first.publish(Header(frame_id="unheard"))
    second.publish(Header(frame_id="heard"))
    client.until(lambda: others, "the other topic's message")
    assert taken == []
    assert receiver.close(10)
    second.publish(Header(frame_id="late"))
    client.spin(0.3)
    assert [message.frame_id for message in others] == ["heard"]


def test_messages_wait_for_the_start(client: Any, errors: list[Exception]) -> None:
    receiver = Receiver(client.node, errors.append)
    taken: list[Header] = []
    receiver.subscribe(Header, TOPIC, lambda m, info: taken.append(m), QOS)
    publisher = client.publisher(Header, TOPIC)
    publisher.publish(Header(frame_id="early"))
    client.spin(0.3)
    assert taken == []
    receiver.start()
    client.until(lambda: taken, "the message")
    assert receiver.close(10) and errors == []
    assert Receiver(client.node, errors.append).close(0)  # one that never started


def test_an_error_in_a_callback_costs_no_other_topics_message(
    client: Any, errors: list[Exception]
) -> None:
    receiver = Receiver(client.node, errors.append)
    taken: list[Header] = []

    def fail(message: Header, info: Any) -> None:
        raise ValueError("a bad message")

    receiver.subscribe(Header, TOPIC, fail, QOS)
    receiver.subscribe(Header, OTHER, lambda m, info: taken.append(m), QOS)
    take_both_at_once(client, receiver)
    client.until(lambda: taken, "the other topic's message", 10)
    assert receiver.close(10)
    assert [str(error) for error in errors] == ["a bad message"]


def test_what_cannot_be_taken_costs_no_other_topics_message(
    client: Any, errors: list[Exception]
) -> None:
    receiver = Receiver(client.node, errors.append)
    taken: list[Header] = []
    # Bytes that are no message are none to the middleware; a type that is none is an error.
    receiver.subscribe(Header, OTHER, lambda m, info: taken.append(m), QOS)
    receiver.subscribe(Header, TOPIC, lambda m, info: None, QOS).msg_type = int
    take_both_at_once(client, receiver)
    client.until(lambda: taken, "the other topic's message", 10)
    assert receiver.close(10)
    assert errors


def test_the_executor_sleeps_while_a_message_waits(
    client: Any, errors: list[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it keeps Python's lock from the thread that is to take the message."""
    taken: list[Header] = []
    receiver = Receiver(client.node, errors.append)  # not started: nobody takes the message
    receiver.subscribe(Header, TOPIC, lambda m, info: taken.append(m), QOS)
    client.publisher(Header, TOPIC).publish(Header())
    client.spin(0.3)  # discovery, and the message's arrival
    executor = SingleThreadedExecutor()
    executor.add_node(client.node)
    waits = []
    nodes = executor.get_nodes()
    monkeypatch.setattr(executor, "get_nodes", lambda: waits.append(None) or nodes)
    executor.spin_once(timeout_sec=0.5)
    executor.shutdown()
    receiver.start()
    client.until(lambda: taken, "the message")
    assert receiver.close(10)
    assert 1 <= len(waits) < 10  # else thousands: it looks at its nodes before each wait


def test_an_event_that_comes_after_the_end_calls_nobody(
    client: Any, errors: list[Exception]
) -> None:
    """One taken together with a message, whose callback takes longer than close() waits."""
    events: list[Any] = []
    receiver = Receiver(client.node, errors.append)
    began, ended = threading.Event(), threading.Event()

    def take_long(message: Header, info: Any) -> None:
        began.set()
        ended.wait(10)

    receiver.subscribe(Header, OTHER, take_long, QOS)
    receiver.subscribe(
        *(Header, TOPIC, lambda m, info: None, QOS),
        event_callbacks=SubscriptionEventCallbacks(incompatible_qos=events.append),
    )
    best_effort = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
    client.publisher(Header, TOPIC, best_effort, heard=False)
    client.publisher(Header, OTHER).publish(Header())
    client.spin(0.5)
    receiver.start()
    assert began.wait(10)
    assert not receiver.close(0.1)
    ended.set()
    assert receiver.close(10)
    assert events == []


def test_events_come_in_the_thread_of_the_messages(client: Any, receiver: Receiver) -> None:
    events: list[tuple[str, str]] = []

    def note(event: Any) -> None:
        policy = qos_policy_name_from_kind(event.last_policy_kind)
        events.append((policy, threading.current_thread().name))

    receiver.subscribe(
        *(Header, TOPIC, lambda m, info: None, QOS),
        event_callbacks=SubscriptionEventCallbacks(incompatible_qos=note),
    )
    best_effort = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
    client.publisher(Header, TOPIC, best_effort, heard=False)
    client.until(lambda: events, "an event")
    assert events == [("RELIABILITY", "receiver")]


def take_both_at_once(client: Any, receiver: Receiver) -> None:
    """Start a receiver when a message of each topic is there."""
    for topic in (TOPIC, OTHER):
        client.publisher(Header, topic).publish(Header())
    client.spin(0.3)
    receiver.start()
