"""Takes camera messages from the middleware in a thread of its own, beside the node's executor.

rclpy's executor gathers all that a node consists of, some forty things, anew for every message.
That costs more than the message. This thread waits for a few subscriptions and for nothing else.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, TypeAlias

from rclpy.callback_groups import CallbackGroup
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.exceptions import InvalidHandle
from rclpy.guard_condition import GuardCondition
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.subscription import Subscription

_PATIENCE = 1.0  # s to wait for the thread to let go of a subscription
_PAUSE = 0.1  # s after an error, so that one that comes again and again leaves time for the rest

_Callback: TypeAlias = Callable[[Any, Any], None]
# In quotes, as Jazzy's subscriptions and publishers take no type in brackets while the node runs.
_Taken: TypeAlias = "tuple[Subscription[Any], Callable[..., Any], tuple[Any, ...]]"


class _NotTheExecutors(CallbackGroup):
    """Subscriptions, and their events, that the executor is to leave alone.

    Events, too: who waits for a subscription's events wakes when a message comes, again and again
    until somebody takes it. So the executor kept Python's lock from the thread that was about to.
    """

    def can_execute(self, entity: Any) -> bool:
        return False

    def beginning_execution(self, entity: Any) -> bool:
        return False

    def ending_execution(self, entity: Any) -> None:
        pass


class Receiver:
    """A thread that takes the messages of some subscriptions, and looks after their events.

    It begins with ``start``.

    Args:
        on_error: called in the thread with an error that escapes from a callback, or that comes of
            a message that cannot be taken. The thread goes on, and the other messages are taken.
    """

    def __init__(self, node: Node, on_error: Callable[[Exception], None]) -> None:
        self._node = node
        self._on_error = on_error
        self._group = _NotTheExecutors()
        self._callbacks: dict[Subscription[Any], _Callback] = {}  # replaced, never changed
        self._in_use: Sequence[Subscription[Any]] = ()  # those the thread waits for
        self._let_go = threading.Condition()
        self._changed = GuardCondition(callback=None, callback_group=None, context=node.context)
        self._closed = False
        self._failed = False  # of the thread: whether there was an error in this turn
        node.context.on_shutdown(self._wake)
        # A daemon, so that a callback that hangs cannot keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="receiver", daemon=True)

    def start(self) -> None:
        """Begin to take messages, once those who are called are ready."""
        self._thread.start()

    def subscribe(
        self,
        kind: type[Any],
        topic: str,
        callback: _Callback,
        qos: QoSProfile,
        *,
        raw: bool = False,
        event_callbacks: SubscriptionEventCallbacks | None = None,
    ) -> Subscription[Any]:
        """Listen to a topic (executor thread).

        Args:
            callback: called in the receiver's thread with a message and its message info.
            raw: give the message as bytes.
            event_callbacks: called in the receiver's thread.
        """
        subscription: Subscription[Any] = self._node.create_subscription(
            kind,
            topic,
            callback,
            qos,
            callback_group=self._group,
            event_callbacks=event_callbacks,
            raw=raw,
        )
        self._callbacks = {**self._callbacks, subscription: callback}
        self._wake()
        return subscription

    def unsubscribe(self, subscription: Subscription[Any]) -> None:
        """Listen no longer (executor thread). A callback that has begun goes on."""
        self._callbacks = {k: v for k, v in self._callbacks.items() if k != subscription}
        self._wake()
        # Only then is the topic free for a subscription of another type.
        with self._let_go:
            self._let_go.wait_for(lambda: subscription not in self._in_use, _PATIENCE)
        self._node.destroy_subscription(subscription)

    def close(self, timeout: float) -> bool:
        """End all subscriptions and the thread (executor thread). No callback comes after it.

        Args:
            timeout: how long to wait for a callback that is at work [s].

        Returns:
            Whether the thread ended within the timeout.
        """
        self._closed = True
        self._wake()
        if self._thread.ident is not None:  # else it was never started
            self._thread.join(timeout)
        for subscription in self._callbacks:
            self._node.destroy_subscription(subscription)
        self._callbacks = {}
        ended = not self._thread.is_alive()
        if ended:
            self._changed.destroy()
        return ended

    def _wake(self) -> None:
        with suppress(InvalidHandle):  # closed
            self._changed.trigger()

    def _run(self) -> None:
        while self._open:
            self._failed = False
            taken: Sequence[_Taken] = ()
            with self._reporting():
                taken = self._take()
            for subscription, callback, arguments in taken:
                if subscription in self._callbacks and not self._closed:
                    with self._reporting():
                        callback(*arguments)
            if self._failed and self._open:
                time.sleep(_PAUSE)

    @property
    def _open(self) -> bool:
        return not self._closed and self._node.context.ok()

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        """An error is reported and goes no further: one bad message must not end them all."""
        try:
            yield
        except Exception as error:  # noqa: BLE001
            self._failed = True
            if self._open:
                self._on_error(error)

    def _take(self) -> list[_Taken]:
        """Wait until something comes: events, and each subscription's oldest message.

        No callback is called here, while subscriptions are held and nobody can end one.
        """
        with self._let_go:
            self._in_use = tuple(self._callbacks)
        try:
            return self._wait_and_take(self._in_use)
        finally:
            with self._let_go:
                self._in_use = ()
                self._let_go.notify_all()

    def _wait_and_take(self, subscriptions: Sequence[Subscription[Any]]) -> list[_Taken]:
        context = self._node.context.handle
        assert context is not None
        with ExitStack() as handles:  # nobody destroys them meanwhile
            handles.enter_context(context)
            handles.enter_context(self._changed.handle)
            events = [event for item in subscriptions for event in item.event_handlers]
            for item in subscriptions:
                handles.enter_context(item.handle)
            for event in events:
                handles.enter_context(event)
            wait_set = rclpy_implementation.WaitSet(
                len(subscriptions), 1, 0, 0, 0, len(events), context
            )
            wait_set.clear_entities()
            wait_set.add_guard_condition(self._changed.handle)
            for item in subscriptions:
                wait_set.add_subscription(item.handle)
            for event in events:
                event.add_to_wait_set(wait_set)
            wait_set.wait(-1)
            taken: list[_Taken] = []
            ready = wait_set.get_ready_entities("subscription")
            for item in subscriptions:
                for event in item.event_handlers:
                    if event.is_ready(wait_set):
                        with self._reporting():
                            happened = event.take_data()
                            if happened is not None:
                                taken.append((item, event.callback, (happened,)))
                if item.handle.pointer in ready:
                    with self._reporting():
                        message = item.handle.take_message(item.msg_type, item.raw)
                        callback = self._callbacks.get(item)
                        if message is not None and callback is not None:
                            taken.append((item, callback, tuple(message)))
        return taken
