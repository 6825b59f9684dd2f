"""What genesis_core warns of, in the node's log: it knows no ROS and uses Python's logging."""

from __future__ import annotations

import logging

from rclpy.impl.rcutils_logger import RcutilsLogger

_SOURCE = logging.getLogger("genesis_core")


class ForwardedLog(logging.Handler):
    """Passes the warnings of genesis_core on to a node, and so to /rosout, until it is closed.

    Each text is said once: with two cameras, or after the next configure, it is no news.

    Args:
        logger: the node's.
    """

    def __init__(self, logger: RcutilsLogger) -> None:
        super().__init__(logging.WARNING)
        self._logger = logger
        self._said: set[str] = set()
        _SOURCE.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Warn of it (from any thread). An error goes to stderr, not to who warned."""
        try:
            text = self.format(record)
            if text not in self._said:
                self._said.add(text)
                self._logger.warning(text)
        except Exception:  # noqa: BLE001 - as the handlers of Python's library do
            self.handleError(record)

    def close(self) -> None:
        """Pass on no more."""
        _SOURCE.removeHandler(self)
        super().close()
