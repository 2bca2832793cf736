"""The command line. Each module holds the verbs of one stage; this one holds what they share."""

from __future__ import annotations

import gc
import os
import signal
import sys
import tempfile
import traceback
from importlib import import_module
from types import FrameType

from mailmill.cli.app import app, installation
from mailmill.errors import MailmillError

VERBS = {  # verb or group of verbs -> the module it is in, along the way from a new project to its care
    "init": "configuration", "apply": "configuration", "up": "up", "down": "database", "tenants": "configuration",
    "ingest": "ingest", "sources": "sources", "rejects": "rejects", "contacts": "people", "tags": "people",
    "check": "check", "revalidate": "check", "suppress": "suppressions", "unsubscribe": "unsubscribe",
    "forget": "forget", "export": "forget",
    "segment": "campaigns", "preview": "campaigns", "campaign": "lifecycle",
    "transport": "transports", "preflight": "transports", "sandbox": "sandbox",
    "send": "send", "account": "ledger", "why": "ledger", "doubts": "ledger", "workers": "ledger", "release": "ledger",
    "ingress": "ingress", "listen": "listen", "dead-letters": "listen",
    "stats": "stats", "explain": "explain", "api": "api", "key": "api", "warehouse": "api",
    "migrate": "database", "keys": "keys", "backup": "backup", "restore": "backup", "health": "health",
}  # fmt: skip


INTERRUPTED = "mailmill: interrupted; run the same command again to go on"


def main() -> None:
    """Run one verb. Exit 0 done, 1 failed, 2 usage. A person sees what is wrong and what to do, not a stack trace."""
    # modules make a million objects that stay: the collector looked through them again and again (10-15 % of a verb)
    gc.set_threshold(50_000, 20, 20)
    for word in sys.argv[1:]:
        shown = word.encode("utf-8", "backslashreplace").decode()
        if shown != word and not os.path.lexists(word.partition("=")[2] or word):  # a file may have any name
            print(f"mailmill: {shown} is not UTF-8, and no file has that name", file=sys.stderr)
            sys.exit(2)
    # the verbs of a module register themselves; a verb that is named pays for its own imports only
    named = sys.argv[1] if len(sys.argv) > 1 else ""
    for module in dict.fromkeys([VERBS[named]] if named in VERBS else VERBS.values()):
        import_module(f"mailmill.cli.{module}")
    _outlive_the_terminal()
    try:
        app()
    except MailmillError as error:
        print(f"mailmill: {error}", file=sys.stderr)
        sys.exit(1)
    except Exception as error:  # a fault of ours: a person gets one line and a file to send, not a stack trace
        print(f"mailmill: this is a fault of mailmill ({type(error).__name__}); {_note(error)}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print(INTERRUPTED, file=sys.stderr)
        sys.exit(130)
    except SystemExit as ended:
        if ended.code == 130:  # typer ends so on Ctrl-C, without a word
            print(INTERRUPTED, file=sys.stderr)
        raise


def _outlive_the_terminal() -> None:
    """A terminal that is closed, or whose connection is cut, ends a verb as SIGTERM does, for which a worker finishes
    what is in flight; unanswered it would be killed with messages on the wire. `nohup` stays what it is."""
    terminals = [descriptor for descriptor in (0, 1, 2) if os.isatty(descriptor)]
    if not terminals or signal.getsignal(signal.SIGHUP) is not signal.SIG_DFL:
        return

    def end(number: int, frame: FrameType | None) -> None:
        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor in terminals:  # who says something now would meet an error
            os.dup2(nowhere, descriptor)
        signal.raise_signal(signal.SIGTERM)

    signal.signal(signal.SIGHUP, end)


def _note(error: Exception) -> str:
    """Keep the stack trace where its reader may look: in the data folder, where there is one. What a container has in
    /tmp is gone when it ends, and `forget` does not look there. Out: where it is."""
    text = "".join(traceback.format_exception(error))
    prefix, suffix = "mailmill-fault-", ".txt"
    try:
        descriptor, name = tempfile.mkstemp(suffix, prefix, installation().home)  # only its owner may read it
    except (MailmillError, OSError):
        descriptor, name = tempfile.mkstemp(suffix, prefix)
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text)
    return f"its stack trace is in {name}"
