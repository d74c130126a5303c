"""Recordings that were cut short, found by the sizes in their headers: libsndfile makes them shorter ones."""

import os
from struct import Struct
from typing import BinaryIO, NamedTuple

_MAX_OGG_PAGE = 65307  # bytes, from the format's definition
_UNKNOWN = 0x7FFFF000  # 32-bit sizes from here on are what sox and ffmpeg write to a pipe
_UNKNOWN_64 = 1 << 63


class Chunked(NamedTuple):
    """A container of chunks: name and size, then as many bytes."""

    start: int  # of the first chunk
    head: Struct
    data: bytes  # begin of the name of the chunk with the samples
    align: int = 1  # chunks start at multiples of it
    unknown: int = _UNKNOWN  # sizes from here on say nothing
    counts_head: bool = False  # whether sizes do


_WAV = Chunked(12, Struct("<4sI"), b"data", 2)  # RF64's sizes beyond 32 bits stand in a chunk before
_AIFF = Chunked(12, Struct(">4sI"), b"SSND", 2)
_CAF = Chunked(8, Struct(">4sQ"), b"data", unknown=_UNKNOWN_64)
_W64 = Chunked(40, Struct("<16sQ"), b"data", 8, _UNKNOWN_64, counts_head=True)


def fault(raw: BinaryIO) -> str:
    """What shows that a file was cut, open at its beginning; "" where nothing does, or nothing could."""
    magic = raw.read(16)
    size = raw.seek(0, os.SEEK_END)
    if magic[:4] == b"OggS":
        return "its last Ogg page is cut or lacks the end-of-stream flag" if _ogg_is_cut(raw, size) else ""
    form = None
    if magic[:4] in (b"RIFF", b"RF64", b"BW64") and magic[8:12] == b"WAVE":
        form = _WAV
    elif magic[:4] == b"FORM" and magic[8:12] in (b"AIFF", b"AIFC"):
        form = _AIFF
    elif magic[:4] in (b"caff", b"riff"):
        form = _CAF if magic[:4] == b"caff" else _W64
    if (form and _is_cut(raw, size, form)) or (magic[:4] in (b".snd", b"dns.") and _au_is_cut(magic, size)):
        return "its header promises more data than the file holds"
    return ""


def _is_cut(raw: BinaryIO, size: int, form: Chunked) -> bool:
    position, long = form.start, None
    while position + form.head.size <= size:
        raw.seek(position)
        name, length = form.head.unpack(raw.read(form.head.size))
        inside = position + form.head.size
        if form.counts_head:
            length = max(0, length - form.head.size)
        if name == b"ds64" and inside + 16 <= size:
            long = Struct("<8xQ").unpack(raw.read(16))[0]
        if name.startswith(form.data):
            if length >= form.unknown:
                length = long  # or None, of what came through a pipe
            return length is not None and inside + length > size
        position = inside + length + -length % form.align
    return True  # the file ends before its samples begin


def _au_is_cut(magic: bytes, size: int) -> bool:
    if len(magic) < 12:
        return True
    begin, length = Struct(">II" if magic[:4] == b".snd" else "<II").unpack(magic[4:12])
    return begin + length > size and length < _UNKNOWN


def _ogg_is_cut(raw: BinaryIO, size: int) -> bool:
    raw.seek(max(0, size - _MAX_OGG_PAGE))
    tail = raw.read()
    page = tail[max(0, tail.rfind(b"OggS")) :]  # a page: 27 bytes, its table of sizes, its data
    table = page[27 : 27 + page[26]] if len(page) > 27 else b""
    last_of_stream = len(page) > 27 and page[5] & 4
    return not last_of_stream or len(page) < 27 + page[26] + sum(table)
