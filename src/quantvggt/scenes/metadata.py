"""What a picture file says beside its pixels, read without trust: damaged metadata must not cost the picture."""

import struct
from collections.abc import Iterator

ORIENTATION = 0x0112
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_PIXELS = (b"PLTE", b"tRNS", b"acTL", b"fcTL", b"fdAT")  # ancillary chunks, and the palette, that pixels depend on
_WEBP_METADATA = (b"EXIF", b"XMP ", b"ICCP")


def orientation_in(exif: bytes) -> int:
    """The orientation tag, 1 to 8, of a block of EXIF; 1 if there is none or it makes no sense.

    Reads that one entry of the first directory (TIFF 6.0, section 2) and nothing else, so that whatever is wrong with
    other entries doesn't matter.
    """
    exif = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None or len(exif) < 10:
        return 1
    (start,) = struct.unpack_from(order + "I", exif, 4)
    for place in range(start + 2, len(exif) - 11, 12):
        tag, kind = struct.unpack_from(order + "HH", exif, place)
        if tag == ORIENTATION:
            value = struct.unpack_from(order + ("I" if kind == 4 else "H"), exif, place + 8)[0]
            return value if 1 <= value <= 8 else 1
    return 1


def without_metadata(data: bytes) -> tuple[bytes, bytes]:
    """A JPEG, PNG or WebP file without all that pixels don't depend on, and the EXIF it held (b"" if none)."""
    if data.startswith(b"\xff\xd8\xff"):
        return _stripped_jpeg(data)
    if data.startswith(_PNG):
        return _stripped_png(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _stripped_webp(data)
    return data, b""


def _stripped_jpeg(data: bytes) -> tuple[bytes, bytes]:
    kept, exif, place = [data[:2]], b"", 2
    while data[place : place + 1] == b"\xff" and place + 4 <= len(data):
        marker, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
        if marker == 0xDA:
            break
        if data[place + 2 + length : place + 3 + length] != b"\xff":  # a length that is wrong
            place = _tables(data, place)
            break
        segment = data[place : place + 2 + length]
        # JFIF (APP0) and Adobe (APP14) say what the numbers mean; other application data and comments don't.
        if not (0xE1 <= marker <= 0xEF and marker != 0xEE) and marker != 0xFE:
            kept.append(segment)
        elif marker == 0xE1 and segment[4:10] == b"Exif\0\0" and not exif:
            exif = segment[4:]
        place += 2 + length
    return b"".join(kept) + data[place:], exif


def _tables(data: bytes, place: int) -> int:
    """Where the quantization tables of a JPEG begin, those of its largest frame: a thumbnail has tables too."""
    best, most = place, 0
    start = data.find(b"\xff\xdb", place)
    while start >= 0:
        pixels, following = 0, start
        while data[following : following + 1] == b"\xff" and following + 9 <= len(data):
            marker, length, _, height, width = struct.unpack_from(">xBHBHH", data, following)
            if marker in (0xC0, 0xC1, 0xC2):  # the frame's header
                pixels = height * width
                break
            following += 2 + length
        if pixels > most:
            best, most = start, pixels
        start = data.find(b"\xff\xdb", start + 2)
    return best


def _stripped_png(data: bytes) -> tuple[bytes, bytes]:
    kept, exif, place = [_PNG], b"", len(_PNG)
    while place + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        chunk = data[place : place + 12 + length]
        if kind[:1].isupper() or kind in _PNG_PIXELS:
            kept.append(chunk)
        elif kind == b"eXIf":
            exif = chunk[8:-4]
        place += len(chunk)
    return b"".join(kept), exif


def _stripped_webp(data: bytes) -> tuple[bytes, bytes]:
    kept, exif = [], b""
    for kind, chunk in _riff_chunks(data):
        if kind == b"EXIF":
            exif = chunk[8:]
        if kind == b"VP8X":  # its flags must not announce what is gone: ICC 0x20, EXIF 0x08, XMP 0x04
            chunk = chunk[:8] + bytes([chunk[8] & ~0x2C]) + chunk[9:]
        if kind not in _WEBP_METADATA:
            kept.append(chunk)
    body = b"WEBP" + b"".join(kept)
    return b"RIFF" + struct.pack("<I", len(body)) + body, exif


def _riff_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = 12
    while place + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, place)
        yield kind, data[place : place + 8 + length + length % 2]
        place += 8 + length + length % 2
