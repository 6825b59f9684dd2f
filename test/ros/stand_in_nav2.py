"""Stands in for nav2's lifecycle manager, which has no wheel: does with the services what it does.

It configures and activates its nodes one after another, asks after each transition for the state
that follows, forms a bond with active ones unless bond_timeout is 0, and when it is told to end
deactivates, cleans up and shuts down. It prints what becomes of it.
"""

from __future__ import annotations

import signal
import sys
import threading
from typing import Any

import rclpy
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

LEADS_TO = {
    Transition.TRANSITION_CONFIGURE: State.PRIMARY_STATE_INACTIVE,
    Transition.TRANSITION_ACTIVATE: State.PRIMARY_STATE_ACTIVE,
    Transition.TRANSITION_DEACTIVATE: State.PRIMARY_STATE_INACTIVE,
    Transition.TRANSITION_CLEANUP: State.PRIMARY_STATE_UNCONFIGURED,
    Transition.TRANSITION_UNCONFIGURED_SHUTDOWN: State.PRIMARY_STATE_FINALIZED,
}


class Manager(Node):
    """The parameters are nav2's."""

    def __init__(self) -> None:
        super().__init__("lifecycle_manager")
        self.names = self.declare_parameter("node_names", [""]).value
        self.autostart = self.declare_parameter("autostart", False).value
        self.bond_timeout = self.declare_parameter("bond_timeout", 4.0).value
        self.service_timeout = self.declare_parameter("service_timeout", 5.0).value

    def change(self, transition: int) -> None:
        """All nodes; SystemExit if one of them does not follow."""
        for name in self.names:
            request = ChangeState.Request(transition=Transition(id=transition))
            success = self.call(ChangeState, f"{name}/change_state", request, None).success
            state = self.call(GetState, f"{name}/get_state", GetState.Request(), 2.0).current_state
            if not success or state.id != LEADS_TO[transition]:
                print(f"Failed to change state for node: {name} ({state.label})", flush=True)
                sys.exit(1)
            if transition == Transition.TRANSITION_ACTIVATE and self.bond_timeout > 0:
                print(f"Server {name} was unable to be reached by bond", flush=True)
                sys.exit(1)

    def call(self, kind: type[Any], service: str, request: Any, timeout: float | None) -> Any:
        """A service's response; the timeout [s] is for a service that is there."""
        client = self.create_client(kind, service)
        if not client.wait_for_service(self.service_timeout * 6):  # it waits for new nodes forever
            raise RuntimeError(f"{service} is not available")
        future = client.call_async(request)
        rclpy.spin_until_future_complete(self, future, timeout_sec=timeout)
        assert future.done(), f"{service} did not answer within {timeout} s"
        return future.result()


if __name__ == "__main__":
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    end = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: end.set())
    manager = Manager()
    if manager.autostart:
        manager.change(Transition.TRANSITION_CONFIGURE)
        manager.change(Transition.TRANSITION_ACTIVATE)
    print("Managed nodes are active", flush=True)
    while not end.wait(0.1):
        pass
    manager.change(Transition.TRANSITION_DEACTIVATE)
    manager.change(Transition.TRANSITION_CLEANUP)
    manager.change(Transition.TRANSITION_UNCONFIGURED_SHUTDOWN)
    print("Managed nodes have been shut down", flush=True)
