"""Subject and body of a message: pieces encoded once and joined with each recipient's values."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import escape

from mailmill.pipelines.send import mime
from mailmill.pipelines.send.slots import MARK, MISSING, Block, Names, NoValue, Slot, Token, pieces
from mailmill.pipelines.target.templates import Kind

MAX_BYTES = 5_000_000  # of one message
SOFT = b"=\r\n"
_KNOWN = 50_000  # values remembered: first names and cities repeat
_KNOWN_BYTES = 8_000_000
# characters that need no encoding wherever they stand, if they do not begin a line with a dot
_PLAIN = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789 .,-_/:;()+@!?*#$%"
_ROOM = 70


class Body:
    """All parts of a message in quoted-printable. A slot stands alone on its lines, between soft breaks, whatever its
    value.

    In: parts in their order: what stands before a part, its kind and its template; what stands behind the last one.
    """

    def __init__(self, parts: Sequence[tuple[bytes, Kind, str]], end: bytes, names: Names) -> None:
        self._frame: list[bytes] = []
        self._tokens: list[tuple[int, int]] = []
        self._blocks: list[tuple[int, _RememberedBlock]] = []
        slots: dict[Slot, dict[_Shown, list[int]]] = {}
        for before, kind, source in parts:
            text, shown = "", _Shown(kind)
            for piece in pieces(kind, source, names):
                if isinstance(piece, str):
                    text += piece
                    continue
                place = len(self._frame) + 1
                self._frame += [before + mime.quoted_printable(text) + SOFT, b""]
                text, before = "", SOFT
                match piece:
                    case Slot():
                        slots.setdefault(piece, {}).setdefault(shown, []).append(place)
                    case Token():
                        self._tokens.append((place, piece.number))
                    case Block():
                        self._blocks.append((place, _RememberedBlock(piece)))
            self._frame.append(before + mime.quoted_printable(text))
        self._frame.append(end)
        # what needs no encoding looks the same in every part
        self._slots = [
            (slot, [place for places in shown.values() for place in places], list(shown.items()))
            for slot, shown in slots.items()
        ]

    def pieces(self, values: Sequence[bytes], tails: Sequence[bytes]) -> list[bytes]:
        """What joined makes the body of one recipient.

        In:     values in UTF-8, MISSING where there is none; the tails of the tokens by their number.
        Raises: NoValue, or whatever Jinja2 raises; ValueError when they would make too much of a template.
        """
        frame, large = self._frame.copy(), 0
        for slot, everywhere, parts in self._slots:
            value = slot.pick(values)
            if len(value) > _ROOM or value.translate(None, _PLAIN) or value[:1] == b"." or b"  " in value:
                for shown, places in parts:
                    done = shown.encoded(value)
                    large += len(done) * len(places)
                    for place in places:
                        frame[place] = done
            else:
                for place in everywhere:
                    frame[place] = value
        for place, number in self._tokens:
            frame[place] = tails[number]
        for place, block in self._blocks:
            frame[place] = done = block.shown(values, tails)
            large += len(done)
        if large > MAX_BYTES:  # before it is joined
            raise ValueError(f"the body has more than {MAX_BYTES:,} bytes")
        return frame


class _Shown:
    """Values as one part shows them; one that is shown in several places is encoded once."""

    def __init__(self, kind: Kind) -> None:
        self._escape = kind == "html"
        self._known: dict[bytes, bytes] = {}

    def encoded(self, value: bytes) -> bytes:
        done = self._known.get(value)
        if done is None:
            shown = str(escape(value.decode("utf-8", "replace"))).encode() if self._escape else value
            done = mime.quoted_value(shown)
            if len(self._known) < _KNOWN and len(value) < 200:
                self._known[value] = done
        return done


class _RememberedBlock:
    """What a block showed, by the values that made it so, with the tokens' places open. Its long texts are encoded once
    for all values."""

    def __init__(self, block: Block) -> None:
        self._block = block
        self._texts = [mime.quoted_printable(text) for text in block.texts]
        self._known: dict[bytes, list[bytes | int]] = {}
        self._room = _KNOWN_BYTES

    def shown(self, values: Sequence[bytes], tails: Sequence[bytes]) -> bytes:
        key = self._block.key(values)
        done = self._known.get(key)
        if done is None:
            parts = self._block.text(values).split(MARK)
            done = [self._numbered(int(one)) if at % 2 else mime.quoted_printable(one) for at, one in enumerate(parts)]
            if sum(len(one) for one in done if isinstance(one, bytes)) > MAX_BYTES:  # before they are joined
                raise ValueError(f"a block has more than {MAX_BYTES:,} bytes")
            own = sum(len(one) for one in done[::2] if isinstance(one, bytes))
            self._room -= len(key) + own + 50 * len(done) + 200
            if self._room > 0:
                self._known[key] = done
        if len(done) == 1 and isinstance(done[0], bytes):
            return done[0]
        return SOFT.join([tails[one] if isinstance(one, int) else one for one in done])

    def _numbered(self, number: int) -> bytes | int:
        return number if number >= 0 else self._texts[-number - 1]


class Subject:
    """The subject's header line."""

    def __init__(self, source: str, names: Names) -> None:
        found = [piece for piece in pieces("text", source, names) if not isinstance(piece, Token)]
        self._pieces = [piece.encode() if isinstance(piece, str) else piece for piece in found]
        self._known: dict[bytes, bytes] = {}
        fixed = all(isinstance(piece, str) for piece in found)
        self._line = subject_line("".join(map(str, found))) if fixed else None

    def line(self, values: Sequence[bytes]) -> bytes:
        """With its CRLF. Raises: NoValue, whatever Jinja2 raises, ValueError for what would break the header."""
        if self._line is not None:
            return self._line
        text = b"".join([piece if isinstance(piece, bytes) else _printed(piece, values) for piece in self._pieces])
        # most subjects are short and plain; a dot at its beginning begins no line
        if len(text) <= _ROOM - 9 and not text.translate(None, _PLAIN) and text.strip() == text and text:
            return b"Subject: " + text + b"\r\n"
        known = self._known.get(text)
        if known is None:
            known = subject_line(text.decode("utf-8", "replace"))
            if len(self._known) < _KNOWN and len(text) < 200:
                self._known[text] = known
        return known


def _printed(piece: Slot | Block, values: Sequence[bytes]) -> bytes:
    return piece.pick(values) if isinstance(piece, Slot) else piece.text(values).encode("utf-8", "replace")


def subject_line(text: str) -> bytes:
    if mime.breaks_header(text):
        raise ValueError("a control character in the subject")
    return mime.unstructured("Subject", text)


__all__ = ["MISSING", "Body", "NoValue", "Subject"]
