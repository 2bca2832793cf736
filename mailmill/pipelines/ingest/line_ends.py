"""Blocks of a text -> pieces that end where a line ends: LF, CRLF or CR."""

from __future__ import annotations

MAX_LINE = 16 * 2**20  # bytes of UTF-8; what a longer line has more is dropped, and who reads lines refuses it


class Cutter:
    """Blocks -> pieces that end where a line ends, of at least so many bytes. Of a line longer than MAX_LINE no more
    than that is kept (down to MAX_LINE bytes, at a character of UTF-8), so that no file fills the memory."""

    def __init__(self, *, least: int = 0) -> None:
        self._least = least
        self._parts: list[bytes] = []
        self._held = 0
        self._dropping = False  # the rest of a line that is too long

    def push(self, block: bytes) -> bytes:
        if self._dropping:
            block = _from_line_end(block)
            self._dropping = not block
        self._parts.append(block)
        self._held += len(block)
        if self._held < self._least:
            return b""
        whole, left = _cut_at_line(b"".join(self._parts))
        if not whole and len(left) > MAX_LINE + 4 and not left.endswith(b"\r"):
            left, self._dropping = _at_character(left[: MAX_LINE + 4]), True
        self._parts = [left]
        self._held = 0 if whole else -len(left)  # a line of many chunks is joined a few times only
        return whole

    def rest(self) -> bytes:
        """The last line, which nothing ends; then nothing is held any more."""
        left, self._parts = b"".join(self._parts), []
        return left


def _from_line_end(text: bytes) -> bytes:
    ends = [at for at in (text.find(b"\n"), text.find(b"\r")) if at >= 0]
    return text[min(ends) :] if ends else b""


def _at_character(text: bytes) -> bytes:
    """Without the last character, of which the end may be missing: 1 to 4 bytes of UTF-8."""
    end = len(text) - 1
    while end > len(text) - 4 and text[end] & 0xC0 == 0x80:
        end -= 1
    return text[:end]


def _cut_at_line(text: bytes) -> tuple[bytes, bytes]:
    """Behind the last end of a line. A CR at the very end may yet be half of a CRLF."""
    end = max(text.rfind(b"\n"), text.rfind(b"\r", 0, max(0, len(text) - 1))) + 1
    return text[:end], text[end:]


def with_lf(content: bytes) -> bytes:
    return content.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in content else content
