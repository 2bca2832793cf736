"""An SMTP client on a connection that has said EHLO, without the connection: bytes in, events and bytes out.

Where the relay offers PIPELINING, MAIL, RCPT and DATA go out together, and the next envelope right behind a final
dot: one round trip a message. Elsewhere each command waits for its reply. Whoever drives it decides, when DATA was
answered 354, whether the body goes: until then nothing has been handed over.

    begin(envelope) ─> receive(…) ─> Ready ─> body(content, next envelope) ─> receive(…) ─> Answered, and Ready or Idle
                                └─> Answered (refused), Idle

Source: RFC 5321 sections 4.2 and 4.5.2, RFC 2920 section 3.1.
"""

from __future__ import annotations

from collections import deque
from typing import Literal

from mailmill.pipelines.send.answers import Answer, Stage
from mailmill.pipelines.send.envelopes import Envelope, Offers
from mailmill.pipelines.send.exchange_events import Answered, Broken, Event, Idle, Ready

MAX_LINE = 4096  # of a reply; what a longer one has more is dropped
MAX_REPLY = 16 * 2**10  # kept of a reply with many lines
MAX_UNREAD = 8 * 2**20  # of one reply, kept or dropped; a relay that says more is not listened to any longer
LINE_COST = 128  # what a line counts besides its length: many short ones are work too
_FINAL_DOT = b".\r\n"
_GOOD: dict[str, bytes] = {"mail": b"250 ", "rcpt": b"250 ", "data": b"354 "}


Expected = Literal["mail", "rcpt", "data", "dot", "rset", "void"]
_ENVELOPE: tuple[Expected, ...] = ("mail", "rcpt", "data")
_OVERLAPPED: deque[Expected] = deque(("dot", *_ENVELOPE))


class Exchange:
    """The state of one connection. After Broken, or when the link is lost, ask `unanswered` and throw it away."""

    def __init__(self, offers: Offers) -> None:
        self._offers, self._pipelining = offers, offers.pipelining
        self._expected: deque[Expected] = deque()
        self._current: Envelope | None = None
        self._next: Envelope | None = None
        self._refusal: Answer | None = None
        self._waiting_for_body = self._broken = self._rset_due = False
        self._unread = b""
        self._lines: list[bytes] = []
        self._size = self._kept = 0
        self._long = b""  # the beginning of a line that is too long
        self._usual = b""  # how this relay says yes to an envelope, behind its answer to a message
        self.out = b""  # what has to be written now; the driver takes and clears it

    # ------------------------------------------------------------ what the driver says

    def begin(self, envelope: Envelope, now: float) -> None:
        """Begin a message. Only when idle."""
        if self._current is not None or self._broken:
            raise RuntimeError("a message is under way")
        self._current = envelope
        if self._rset_due:
            self._rset_due = False
            self.out += b"RSET\r\n"
            self._expected.append("rset")
            if not self._pipelining:
                return
        self._send_envelope(envelope, now)

    def body(self, content: bytes, following: Envelope | None, now: float) -> None:
        """Hand over the current message (dots stuffed, without the final one) and, where it may, the next envelope."""
        if not self._waiting_for_body:
            raise RuntimeError("the relay does not wait for a body")
        self._waiting_for_body = False
        self._expected.append("dot")
        if following is None:
            self.out = b"".join((self.out, content, _FINAL_DOT))
            return
        if not self._pipelining:
            raise RuntimeError("the relay does not take the next envelope yet")
        self._next, following.begun = following, now
        self.out = b"".join((self.out, content, _FINAL_DOT, *self._offers.commands(following)))
        self._expected.extend(_ENVELOPE)

    @property
    def stage(self) -> Stage:
        """Where the current message is. At `dot` the relay may already have it."""
        if self._waiting_for_body:
            return "data"
        first = self._expected[0] if self._expected else "mail"
        return first if first in ("rcpt", "data", "dot") else "mail"

    @property
    def broken(self) -> bool:
        return self._broken

    @property
    def due(self) -> int:
        """How many replies are due."""
        return len(self._expected)

    @property
    def busy(self) -> bool:
        """Whether a message is under way."""
        return bool(self._expected) or self._waiting_for_body

    def unanswered(self, why: str) -> list[tuple[Envelope, Answer, bool]]:
        """What was under way when the link broke: the message, what is known of it, and whether the relay had
        said anything about it. Afterwards nothing is under way."""
        found: list[tuple[Envelope, Answer, bool]] = []
        if self._current is not None:
            heard = self.stage != "mail" or self._refusal is not None
            found.append((self._current, self._refusal or Answer(self.stage, 0, why), heard))
        if self._next is not None:
            found.append((self._next, Answer("mail", 0, why), False))
        self._current = self._next = self._refusal = None
        return found

    # ------------------------------------------------------------ what the relay says

    def receive(self, data: bytes, now: float) -> list[Event]:
        """Events in the order of the relay's replies."""
        events: list[Event] = []
        if self._broken:
            return events
        overlapped = self._expected == _OVERLAPPED and not (self._unread or self._lines or self._long or self._refusal)
        if overlapped:
            line, _, rest = data.partition(b"\n")
            if rest and rest == self._usual and line[:4] == b"250 " and len(line) <= MAX_LINE:
                return self._taken_and_ready(line[4:-1] if line[-1:] == b"\r" else line[4:], now)
        lines = (self._unread + data if self._unread else data).split(b"\n")
        self._unread = lines.pop()
        for line in lines:
            if not (self._plain(line, events) or self._line(line, events, now)):
                return events
        if overlapped and self._waiting_for_body and len(lines) == 4 and not (self._expected or self._unread):
            self._usual = data.partition(b"\n")[2]  # the next answer that ends so means the same
        if len(self._unread) > MAX_LINE:  # keep the beginning, which has the code
            self._size += len(self._unread)
            self._long, self._unread = self._long or self._unread[:MAX_LINE], b""
            if self._size > MAX_UNREAD:
                self._break("the relay's reply has no end", events)
        return events

    def _taken_and_ready(self, text: bytes, now: float) -> list[Event]:
        """The relay took the current message and waits for the body of the next one."""
        taken, ready = self._current, self._next
        assert taken is not None and ready is not None
        self._current, self._next, self._waiting_for_body = ready, None, True
        self._expected.clear()
        answer = Answer("dot", 250, text.decode("utf-8", "replace"), _ms(taken, now))
        return [Answered(taken, answer), Ready(ready)]

    def _plain(self, line: bytes, events: list[Event]) -> bool:
        """Take in what nearly every line is: a pipelined envelope goes well, in replies of one line. Out: whether."""
        expected = self._expected[0] if self._expected else "void"
        if line[:4] != _GOOD.get(expected) or not self._pipelining or self._refusal or self._lines or self._long:
            return False
        self._expected.popleft()
        if expected == "data":
            assert self._current is not None
            self._waiting_for_body = True
            events.append(Ready(self._current))
        return True

    def _line(self, line: bytes, events: list[Event], now: float) -> bool:
        """One line of the relay. Out: False when the connection is done with."""
        if self._long:
            line, self._long = self._long, b""
        line = line[:-1] if line[-1:] == b"\r" else line
        self._size += len(line) + LINE_COST
        if self._size > MAX_UNREAD:
            return self._break("the relay's reply has no end", events)
        code = line[:3]
        if not (code.isdigit() and len(code) == 3 and line[3:4] in (b" ", b"-", b"")):
            return self._break("the relay does not speak SMTP", events)
        if self._kept < MAX_REPLY:
            self._lines.append(line[:MAX_LINE])
            self._kept += len(line)
        if line[3:4] == b"-":
            return True
        text = b"\n".join([one[4:] for one in self._lines]).decode("utf-8", "replace")
        self._lines, self._size, self._kept = [], 0, 0
        return self._reply(int(code), text, events, now)

    def _reply(self, code: int, text: str, events: list[Event], now: float) -> bool:
        if not self._expected:
            return self._break("goodbye" if code == 421 else "an answer to nothing", events)
        expected = self._expected.popleft()
        if expected == "dot":
            envelope = self._current
            assert envelope is not None
            events.append(Answered(envelope, Answer("dot", code, text, _ms(envelope, now))))
            self._current, self._next = self._next, None
            if code == 421:
                return self._break("goodbye", events)
            if self._current is None:
                events.append(Idle())
            return True
        if code == 421 and expected in ("rset", "void"):
            return self._break("goodbye", events)
        if expected == "rset":
            if not self._pipelining and self._current is not None:
                self._send_envelope(self._current, now)
            return True
        if expected == "void":
            self._rset_due = True
            events.append(Idle())
            return True
        return self._envelope_reply(expected, code, text, events, now)

    def _envelope_reply(self, expected: Stage, code: int, text: str, events: list[Event], now: float) -> bool:
        envelope = self._current
        assert envelope is not None
        good = code == 354 if expected == "data" else 200 <= code < 300
        if not good and self._refusal is None:
            self._refusal = Answer(expected, code, text, _ms(envelope, now))
        if code == 421:
            events.append(Answered(envelope, self._refusal or Answer(expected, code, text, _ms(envelope, now))))
            self._current = None
            return self._break("goodbye", events)
        if self._refusal is None:
            if expected == "data":
                self._waiting_for_body = True
                events.append(Ready(envelope))
            elif not self._pipelining:
                self._send("rcpt" if expected == "mail" else "data", envelope)
            return True
        if self._pipelining and expected != "data":
            return True  # the answers to the rest of the envelope are still to come
        return self._refused(envelope, code, events)

    def _refused(self, envelope: Envelope, code: int, events: list[Event]) -> bool:
        assert self._refusal is not None
        events.append(Answered(envelope, self._refusal))
        self._current = self._refusal = None
        if code == 354:  # it wants a body although nobody is to get it: an empty one, which it has to refuse
            self.out += _FINAL_DOT
            self._expected.append("void")
        else:
            self._rset_due = True
            events.append(Idle())
        return True

    def _break(self, why: str, events: list[Event]) -> bool:
        self._broken = True
        events.append(Broken(why))
        return False

    def _send_envelope(self, envelope: Envelope, now: float) -> None:
        envelope.begun = now
        if self._pipelining:
            self.out += b"".join(self._offers.commands(envelope))
            self._expected.extend(_ENVELOPE)
        else:
            self._send("mail", envelope)

    def _send(self, stage: Literal["mail", "rcpt", "data"], envelope: Envelope) -> None:
        self.out += self._offers.commands(envelope)[("mail", "rcpt", "data").index(stage)]
        self._expected.append(stage)


def _ms(envelope: Envelope, now: float) -> int:
    return max(0, int((now - envelope.begun) * 1000))
