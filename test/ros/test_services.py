"""The services of the perception node, without a node."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from genesis_ros.node.services import MAX_WAITING_REQUESTS, Request, Services
from genesis_ros.srv import SegmentImage


def test_as_many_requests_wait_as_may_and_the_next_one_is_refused() -> None:
    submitted: list[Request] = []
    node = SimpleNamespace(executor=None, create_service=lambda *given, **more: None)
    served = SimpleNamespace(submit_request=lambda name, request: submitted.append(request))
    services = Services(node, served)  # type: ignore[arg-type]

    def ask() -> str | None:
        """What is said at once to one more who asks; None: it waits."""
        waiting = services._segment(SegmentImage.Request(), SegmentImage.Response())
        coroutines.append(waiting)
        try:
            waiting.send(None)
        except StopIteration as end:
            return end.value.message
        return None

    coroutines: list = []
    assert [ask() for _ in range(MAX_WAITING_REQUESTS)] == [None] * 8
    assert ask() == "8 requests wait already; ask again later"
    assert len(submitted) == 8
    submitted[0].refuse("enough")
    with pytest.raises(StopIteration) as end:
        coroutines[0].send(None)
    assert end.value.value.message == "enough"
    assert ask() is None  # there is room for one again
    for waiting in coroutines:
        waiting.close()
