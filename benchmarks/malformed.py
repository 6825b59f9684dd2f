"""Messages as a broken driver, a bad cable or somebody malicious would make them.

Every function is told where its chances come from, so that the same seed makes the same messages.
"""

from __future__ import annotations

import math
import struct
import zlib
from array import array
from random import Random

import cv2
import numpy as np
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

BYTES_PER_PIXEL = {"mono8": 1, "rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono16": 2,
                   "rgb16": 6, "bgr16": 6, "8UC3": 3, "yuv422": 2, "yuv422_yuy2": 2}  # fmt: skip
_BAD_ENCODINGS = ("", "RGB8", "rgb8 ", "rgb", "8UC5", "16UC1", "32FC1", "64FC4", "bayer", "%s%n",
                  "rgb8\n[ERROR] fire", "ünïcödé", "画像🤖", "x" * 3000)  # fmt: skip
_ODD_NUMBERS = (0, 1, 2, 3, 255, 256, 65535, 2**16, 2**31 - 1, 2**31, 2**32 - 1)
_ODD_FLOATS = (0.0, -1.0, 1e-320, 1e-30, 1e30, 3e38, math.nan, math.inf, -math.inf)


def bad_image(random: Random) -> tuple[Image, bool]:
    """A raw image with up to four things wrong, and whether it is usable all the same."""
    message = good_image(random, random.choice(list(BYTES_PER_PIXEL)))
    for _ in range(random.randint(1, 4)):
        _spoil(message, random)
    return message, usable(message)


def good_image(random: Random, encoding: str, height: int = 0, width: int = 0) -> Image:
    """Noise of this encoding, and of random size where none is given; rows may be padded."""
    height = height or random.randint(1, 60)
    width = width or 2 * random.randint(1, 30)
    step = width * BYTES_PER_PIXEL[encoding] + random.choice((0, 0, 1, 7))
    data = array("B", random.randbytes(step * height))
    return Image(height=height, width=width, encoding=encoding, step=step, data=data)


def usable(message: Image) -> bool:
    """What the definition of sensor_msgs/Image asks for."""
    size = BYTES_PER_PIXEL.get(message.encoding)
    return (
        size is not None
        and message.height > 0
        and message.width > 0
        and message.step >= message.width * size
        and len(message.data) == message.step * message.height
        and not (message.encoding.startswith("yuv") and message.width % 2)
    )


def bad_file(random: Random) -> tuple[CompressedImage, bool | None]:
    """A spoilt image file, or none at all, and whether it is usable; None: who knows?"""
    suffix = random.choice((".jpg", ".png"))
    file = file_of(random, suffix)
    what = random.randrange(8)
    known: bool | None = False
    if what == 0:  # with less than 3 bytes missing a JPEG may be whole
        file = file[: random.randrange(len(file) - 3)]
        known = None if suffix == ".jpg" else False
    elif what == 1:
        file = random.randbytes(random.randrange(500))
    elif what == 2:
        file = file_of(random, random.choice((".webp", ".bmp", ".tiff")))
        spoilt = bytearray(file)
        for _ in range(random.randint(0, 3)):
            spoilt[random.randrange(len(file))] = random.randrange(256)
        file, known = bytes(spoilt), None
    elif what == 3:
        file = with_size(file, random.randint(10_000, 65_535), random.randint(10_000, 65_535))
    elif what == 4:
        place = random.randrange(len(file))
        file = file[:place] + random.randbytes(random.randint(1, 20)) + file[place:]
        known = None
    elif what == 5:
        spoilt = bytearray(file)
        for _ in range(random.randint(1, 4)):
            spoilt[random.randrange(len(file))] ^= 1 << random.randrange(8)
        file, known = bytes(spoilt), None
    elif what == 6:
        file += random.randbytes(random.randrange(100))
        known = None
    kinds = (
        "jpeg",
        "png",
        "",
        "画像",
        "bayer_rggb8; jpeg compressed ",
        "rgb8; png compressed rgb8",
    )
    name = "16UC1; compressedDepth png" if what == 7 else random.choice(kinds)
    return CompressedImage(format=name, data=array("B", file)), known


def file_of(random: Random, suffix: str) -> bytes:
    """An image file with some noise in it."""
    shape = (random.randint(2, 60), random.randint(2, 60), *random.choice(((), (3,))))
    pixels = np.frombuffer(random.randbytes(math.prod(shape)), np.uint8).reshape(shape)
    return cv2.imencode(suffix, pixels)[1].tobytes()


def with_size(file: bytes, width: int, height: int) -> bytes:
    """The same JPEG or PNG, which now claims another size."""
    if file.startswith(b"\x89PNG"):
        header = b"IHDR" + struct.pack(">II", width, height) + file[24:29]
        return file[:12] + header + struct.pack(">I", zlib.crc32(header)) + file[33:]
    frame = file.index(b"\xff\xc0")
    return file[: frame + 5] + struct.pack(">HH", height, width) + file[frame + 9 :]


def bad_depth(random: Random, height: int, width: int) -> Image:
    """A depth image of strange numbers, now and then with something else wrong."""
    kind, name = random.choice((("<f4", "32FC1"), ("<u2", "16UC1")))
    values = np.frombuffer(random.randbytes(height * width * 4), kind)[: height * width].copy()
    if name == "32FC1":
        values[: width * 4] = random.choices(_ODD_FLOATS, k=width * 4)
    message = Image(height=height, width=width, encoding=name, step=width * values.itemsize)
    message.data = array("B", values.tobytes())
    if random.random() < 0.5:
        _spoil(message, random)
    return message


def bad_compressed_depth(random: Random, height: int, width: int) -> CompressedImage:
    """Compressed depth that is spoilt in one of several ways, now and then in none."""
    values = np.frombuffer(random.randbytes(height * width * 2), "<u2").reshape(height, width)
    kind = random.choice(("16UC1", "32FC1", "mono16", "rgb8", ""))
    header = struct.pack("<iff", 0, *random.choices((*_ODD_FLOATS, 10100.0, -1009.0), k=2))
    if random.random() < 0.5:
        data = header + cv2.imencode(".png", values)[1].tobytes()
    else:
        size = random.choice(((width, height), (width, height + 1), (2**20, 2**20), (0, 1)))
        data = header + struct.pack("<II", *size) + values.tobytes()
    spoilt = bytearray(data)
    what = random.randrange(4)
    if what == 0:
        spoilt = spoilt[: random.randrange(len(spoilt))]
    elif what == 1:
        for _ in range(random.randint(1, 5)):
            spoilt[random.randrange(len(spoilt))] = random.randrange(256)
    elif what == 2:
        spoilt = bytearray(random.randbytes(random.randrange(400)))
    form = random.choice(("compressedDepth png", "compressedDepth rvl", "compressedDepth", "png"))
    return CompressedImage(format=f"{kind}; {form}", data=array("B", bytes(spoilt)))


def bad_camera_info(random: Random, height: int, width: int) -> CameraInfo:
    """Intrinsics of strange numbers."""
    info = CameraInfo(height=height, width=width, k=[80.0, 0, 32, 0, 80.0, 24, 0, 0, 1])
    for _ in range(random.randint(0, 3)):
        info.k[random.randrange(9)] = random.choice(_ODD_FLOATS)
    fields = [(info, name) for name in ("height", "width")]
    fields += [(info.roi, name) for name in ("height", "width", "x_offset", "y_offset")]
    for target, name in fields:
        if random.random() < 0.1:
            setattr(target, name, _number(random, getattr(target, name)))
    return info


def mangled(serialised: bytes, random: Random) -> bytes:
    """A serialised message that ends early, or whose first, telling bytes are others."""
    spoilt = bytearray(serialised)
    what = random.randrange(3)
    if what == 0:
        return bytes(spoilt[: random.randrange(len(spoilt))])
    if what == 1:
        place = random.randrange(4, 60, 4)
        spoilt[place : place + 4] = struct.pack("<I", _number(random, 7))
        return bytes(spoilt)
    return random.randbytes(random.randrange(200))


def _spoil(message: Image, random: Random) -> None:
    what = random.randrange(6)
    if what == 0:
        name = random.choice(("height", "width", "step"))
        setattr(message, name, _number(random, getattr(message, name)))
    elif what == 1:
        message.encoding = random.choice((*_BAD_ENCODINGS, *BYTES_PER_PIXEL))
    elif what == 2:
        message.data = message.data[: random.randrange(len(message.data) + 1)]
    elif what == 3:
        message.data += array("B", random.randbytes(random.randint(1, 100)))
    elif what == 4:
        message.is_bigendian = random.randrange(256)
    else:
        message.header.frame_id = random.choice(("", "käméra 🤖", "/" * 2000, "a b\n"))


def _number(random: Random, value: int) -> int:
    near = (max(0, value - 1), value + 1, random.randrange(2**32))
    return random.choice((*_ODD_NUMBERS, *near)) % 2**32
