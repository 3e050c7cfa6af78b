"""Animated WebP and GIF with as many frames as were given.

Encoders join neighbouring frames that look alike into one that is shown for longer, and readers then find fewer. Here
every frame is encoded with a duration of one unit, so that the file says how many were joined; then the durations are
set, and each frame that was joined is put back as one of a single pixel that changes nothing, of some forty bytes.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Sequence

from PIL import Image

# GIF89a, sections 20 to 23 and 27.
_GIF_IMAGE, _GIF_EXTENSION, _GIF_CONTROL, _GIF_TRAILER = 0x2C, 0x21, 0xF9, 0x3B
_GIF_KEEP, _GIF_TRANSPARENT = 1 << 2, 1
# One pixel at the top left of colour 0, which the extension before it makes transparent; its codes of three bits are
# "clear", 0 and "end".
_GIF_PIXEL = struct.pack("<B4HB", _GIF_IMAGE, 0, 0, 1, 1, 0) + bytes([2, 2, 0x44, 0x01, 0])

# The WebP container: https://developers.google.com/speed/webp/docs/riff_container
_ANMF_HEAD, _DISPOSE, _DO_NOT_BLEND, _HAS_ANIMATION = 16, 1, 2, 2
_PICTURES = (b"ALPH", b"VP8 ", b"VP8L")


def encode_webp(
    images: Sequence[Image.Image],
    durations: Sequence[int],
    loop: int = 0,
    exif: bytes = b"",
    lossless: bool = True,
    quality: int = 80,
    method: int = 4,
) -> bytes:
    """Pictures of one size as a WebP: an animation, or a still picture where there is one.

    Args:
        durations: milliseconds of each, at most 2**24 - 1.
        loop: how often it plays; 0 is for ever.
        exif, lossless, quality, method: Pillow's.
    """
    file = io.BytesIO()
    images[0].save(
        file, "WEBP", save_all=True, append_images=images[1:], duration=1, loop=loop, exif=exif, lossless=lossless,
        quality=quality, method=method,
    )  # fmt: skip
    return file.getvalue() if len(images) == 1 else _separate_webp(file.getvalue(), durations, loop)


def encode_gif(
    images: Sequence[Image.Image], durations: Sequence[int], loop: bool = True, comment: bytes = b""
) -> bytes:
    """Pictures of one size with palettes as a GIF.

    Args:
        durations: hundredths of a second of each, at most 2**16 - 1.
        loop: for ever, or once.
        comment: of the file.
    """
    options = {"loop": 0} if loop else {}
    file = io.BytesIO()
    images[0].save(
        file, "GIF", save_all=True, append_images=images[1:], duration=10, comment=comment, optimize=False, **options
    )
    return _separate_gif(file.getvalue(), durations)


def _separate_gif(gif: bytes, durations: Sequence[int]) -> bytes:
    parts = list(_gif_parts(gif))
    single = sum(part[0] == _GIF_IMAGE for part in parts[1:]) == 1
    out, shown, count = [parts[0]], 0, 1
    for part in parts[1:]:
        if part[:2] == bytes([_GIF_EXTENSION, _GIF_CONTROL]):
            # A lone picture has its own duration in some versions of Pillow.
            count = len(durations) if single else int.from_bytes(part[4:6], "little")
            part = part[:4] + struct.pack("<H", durations[shown]) + part[6:]
        out.append(part)
        if part[0] == _GIF_IMAGE:
            for duration in durations[shown + 1 : shown + count]:
                flags = _GIF_KEEP | _GIF_TRANSPARENT
                out.append(struct.pack("<4BHBB", _GIF_EXTENSION, _GIF_CONTROL, 4, flags, duration, 0, 0) + _GIF_PIXEL)
            shown += count
    _check_count(shown, durations)
    return b"".join(out)


def _gif_parts(gif: bytes) -> Iterator[bytes]:
    """The head with the colours of the whole file, each extension, each picture, and the end."""

    def colours(flags: int) -> int:
        return 3 << (flags & 7) + 1 if flags & 0x80 else 0

    start, at = 0, 13 + colours(gif[10])
    while True:
        yield gif[start:at]
        if start and gif[start] == _GIF_TRAILER:
            return
        start = at
        if gif[at] == _GIF_TRAILER:
            at += 1
            continue
        at += 2 if gif[at] == _GIF_EXTENSION else 11 + colours(gif[at + 9])
        while gif[at]:
            at += 1 + gif[at]
        at += 1


def _separate_webp(webp: bytes, durations: Sequence[int], loop: int) -> bytes:
    chunks = list(_chunks(webp[12:]))
    with Image.open(io.BytesIO(webp)) as decoded:
        if all(name != b"ANMF" for name, _ in chunks):
            chunks = _animated(chunks, decoded.size, len(durations), loop)
        out, shown, number = [], 0, 0
        for name, data in chunks:
            if name != b"ANMF":
                out.append(_chunk(name, data))
                continue
            count = int.from_bytes(data[12:15], "little")
            frames = [data]
            if count > 1:
                decoded.seek(number)
                frames = _repeated(data, decoded.convert("RGB").crop((0, 0, 1, 1)), count)
            for frame, duration in zip(frames, durations[shown : shown + count], strict=True):
                out.append(_chunk(name, frame[:12] + struct.pack("<I", duration)[:3] + frame[15:]))
            shown, number = shown + count, number + 1
    _check_count(shown, durations)
    return _riff(out)


def _repeated(frame: bytes, corner: Image.Image, count: int) -> list[bytes]:
    """The ANMF data of a frame, and those that show the same again; its disposal waits for the last."""
    file = io.BytesIO()
    corner.save(file, "WEBP", lossless=True)
    picture = b"".join(_chunk(name, data) for name, data in _chunks(file.getvalue()[12:]) if name in _PICTURES)
    pixel = bytes(_ANMF_HEAD - 1) + bytes([_DO_NOT_BLEND]) + picture
    if not frame[15] & _DISPOSE:
        return [frame] + [pixel] * (count - 1)
    # What it clears is all of its own area, so that it is drawn again.
    return [frame[:15] + bytes([frame[15] & ~_DISPOSE]) + frame[16:]] + [pixel] * (count - 2) + [frame]


def _animated(
    chunks: list[tuple[bytes, bytes]], size: tuple[int, int], count: int, loop: int
) -> list[tuple[bytes, bytes]]:
    """The chunks of a still picture as those of an animation of one frame that lasts `count` milliseconds."""
    named = dict(chunks)
    width, height = (struct.pack("<I", side - 1)[:3] for side in size)
    head = named.get(b"VP8X", bytes(4) + width + height)
    picture = b"".join(_chunk(name, data) for name, data in chunks if name in _PICTURES)
    frame = bytes(6) + width + height + struct.pack("<I", count)[:3] + bytes([_DO_NOT_BLEND]) + picture
    others = [(name, data) for name, data in chunks if name not in (b"VP8X", *_PICTURES)]
    animation = (b"ANIM", bytes(4) + struct.pack("<H", loop))
    return [(b"VP8X", bytes([head[0] | _HAS_ANIMATION]) + head[1:]), animation, (b"ANMF", frame), *others]


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while at + 8 <= len(data):
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        yield data[at : at + 4], data[at + 8 : at + 8 + length]
        at += 8 + length + length % 2


def _chunk(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)


def _riff(chunks: Sequence[bytes]) -> bytes:
    body = b"".join([b"WEBP", *chunks])
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _check_count(found: int, durations: Sequence[int]) -> None:
    if found != len(durations):
        raise RuntimeError(f"Pillow encoded {found} frames, expected {len(durations)}")
