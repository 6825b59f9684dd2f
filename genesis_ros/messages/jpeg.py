"""Whether a JPEG is whole: OpenCV fills what is missing with grey and reports success."""

from __future__ import annotations


def is_cut_off(data: bytes) -> bool:
    """Whether these bytes start a JPEG but lack its end.

    The end marker must follow the last scan; an earlier one can belong to an embedded thumbnail.
    """
    if not data.startswith(b"\xff\xd8"):
        return False
    end, scan = data.rfind(b"\xff\xd9"), data.rfind(b"\xff\xda")
    return end < 0 or end < scan
