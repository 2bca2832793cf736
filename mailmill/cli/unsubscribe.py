"""The verb unsubscribe: who asks for it by mail, as the mailto of List-Unsubscribe offers."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Literal

import typer

from mailmill.cli.app import Json, answer_json, app, installation
from mailmill.cli.ingress import event_log
from mailmill.composition import Installation
from mailmill.io.mailbox import letters
from mailmill.io.postgres import ingress, keys
from mailmill.pipelines.listen import arrivals, leaving
from mailmill.pipelines.listen.ports import EventLog
from mailmill.pipelines.send import tokens
from mailmill.pipelines.send.tokens import Token

WORDS = {
    "unsubscribed": "unsubscribed",
    "unknown": "of messages that are not in the ledger",
    "not_understood": "without a token of ours in the subject; in a Maildir they are flagged, for a person to read",
}


@app.command("unsubscribe")
def unsubscribe(
    mail: Annotated[list[Path], typer.Argument(metavar="MAILDIR|FILE...", help="Where the mail of it arrives.")],
    json: Json = False,
) -> None:
    """Read an identity's unsubscribe_mailbox: whoever wrote is suppressed and counted, as by one click."""
    mill = installation()
    with mill.database.transaction("ingress") as conn:
        secrets = keys.usable(conn, "unsubscribe")
    log, counted = event_log(mill), Counter[str]()
    try:
        for folder in mail:
            for letter in letters(folder):
                token = tokens.verify(leaving.token_of(letter.head) or "", secrets, "unsubscribe")
                became = "not_understood" if token is None else _leave(mill, log, token)
                letter.done("S" if became == "unsubscribed" else "FS")  # only after it is durable: twice is once
                counted[became] += 1
    finally:
        log.close()
    if json:
        answer_json({name: counted[name] for name in WORDS})
    else:
        print(
            "; ".join(f"{counted[name]:,} {words}" for name, words in WORDS.items() if counted[name]) or "no new mail"
        )


def _leave(mill: Installation, log: EventLog, token: Token) -> Literal["unsubscribed", "unknown"]:
    """Suppress at once, then let the event be counted. Raises: StoreUnavailable; the mail stays new."""
    with mill.database.transaction("ingress") as conn:
        ingress.bind(conn, tenant_id=token.tenant)
        known = ingress.unsubscribe(conn, token)
    if known:
        log.append([arrivals.unsubscription(token, at_ms=int(time.time() * 1000))])
    return "unsubscribed" if known else "unknown"
