"""The command line. Each module holds the verbs of one stage; this one holds what they share."""

from __future__ import annotations

import sys
from importlib import import_module

from mailmill.cli.app import app
from mailmill.errors import MailmillError

STAGES = (
    "database",
    "configuration",
    "backup",
    "ingest",
    "campaigns",
    "listen",
    "stats",
    "explain",
    "api",
    "ingress",
    "sandbox",
    "send",
    "up",
)


def main() -> None:
    """Run one verb. Exit 0 done, 1 failed, 2 usage. A person sees what is wrong and what to do, not a stack trace."""
    for stage in STAGES:  # the verbs of each stage register themselves
        import_module(f"mailmill.cli.{stage}")
    try:
        app()
    except MailmillError as error:
        print(f"mailmill: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("mailmill: interrupted; run the same command again to go on", file=sys.stderr)
        sys.exit(130)
