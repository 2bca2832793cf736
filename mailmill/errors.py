"""The errors of mailmill. Whoever catches one knows from its class whether trying again can help.

MailmillError
├── TransientError            may be tried again
│   ├── StoreUnavailable      PostgreSQL, the lake or the event log does not answer
│   │   └── RestoreUnfinished it failed once the database had changed, or may have
│   ├── SourceUnavailable     a source of contacts does not answer, or asks to slow down
│   └── TransportUnavailable  nothing was handed over to the relay
└── TerminalError             trying again changes nothing
    ├── OutcomeUnknown        the link broke after the final dot: the relay may have the message
    ├── LeaseLost             another worker holds these rows now; the results are discarded
    ├── InvalidEvent          a record of the event log that nobody can read
    └── Misconfigured         a file, setting, key or argument a person has to correct
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager


class MailmillError(Exception):
    """Something mailmill can name. `str(error)` says what, where and what to do, and holds no secret."""


class TransientError(MailmillError):
    """Trying again later may help."""


class StoreUnavailable(TransientError):
    """PostgreSQL, the lake or the event log does not answer."""


class RestoreUnfinished(StoreUnavailable):
    """A restore failed when the database had been replaced, or may have been: it has to be run again."""


class SourceUnavailable(TransientError):
    """A source of contacts does not answer, or asks to slow down."""

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class TransportUnavailable(TransientError):
    """Nothing was handed over to the relay."""


class TerminalError(MailmillError):
    """Trying again changes nothing."""


class OutcomeUnknown(TerminalError):
    """The link broke after the final dot: the relay may have taken the message."""


class LeaseLost(TerminalError):
    """The lease ran out or was taken over; results under it are discarded and counted."""


class InvalidEvent(TerminalError):
    """A record of the event log that cannot be read; it goes to the dead letters with this reason."""


class Misconfigured(TerminalError):
    """A person has to correct a file, a setting, a key or an argument.

    `message` is what is wrong, `place` where (file:line, setting, argument), `remedy` what to do about it.
    """

    def __init__(self, message: str, *, place: str | None = None, remedy: str | None = None) -> None:
        self.message = message
        self.place = place
        self.remedy = remedy
        text = f"{place}: {message}" if place else message
        super().__init__(f"{text}\n  {remedy}" if remedy else text)


def listed(names: Sequence[str], most: int) -> str:
    """The first of them for a sentence, and … where there are more."""
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")


_AT = "mailmill was at "


@contextmanager
def at(what: str) -> Iterator[None]:
    """What nobody foresaw is noted with what it befell, for `unforeseen`."""
    try:
        yield
    except MailmillError:
        raise
    except Exception as error:
        error.add_note(_AT + what)
        raise


def unforeseen(error: BaseException) -> str:
    """An error's kind and what it befell, for a person. Its own words may hold a row or a secret: they are left out."""
    notes = [note for note in getattr(error, "__notes__", ()) if note.startswith(_AT)]
    return f"an unexpected error, {type(error).__name__}" + "".join(f", at {note.removeprefix(_AT)}" for note in notes)


def told(error: BaseException) -> str:
    """An error for a person: in its own words where it is one of ours."""
    return str(error) if isinstance(error, MailmillError) else unforeseen(error)
