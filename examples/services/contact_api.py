"""A stand-in for Scraper-Pro and Backlink Engine: generated contacts over real HTTP, the same for the same seed.

It speaks the contract of docs/sources.md: X-API-Key, pages with a cursor, updated_since, as_of. Faults on demand,
by the query `?fault=…` or the header `X-Fault: …` of a request, or by `--fault …` for every n-th one (`--fault-every`):
429 (Retry-After: 1), 500, slow, garbage, columns (other names), gone (410 to a page cursor).
"""

from __future__ import annotations

import argparse
import base64
import hmac
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import uvicorn
from fastapi import FastAPI, Header, HTTPException, Query, Request, Response

FAULTS = ("429", "500", "slow", "garbage", "columns", "gone")
FIRST = ["Ada", "Bruno", "Carla", "Dilek", "Emil", "Freya", "Goran", "Hana", "Ivo", "Jana", "Kofi", "Lena"]
LAST = ["Adler", "Brandt", "Conti", "Dubois", "Evans", "Fuchs", "Gruber", "Hansen", "Iversen", "Jung"]
SITES = ["lesekreis.example", "reiseblog.test", "kochbuch.example", "wissen.test", "garten.example", "handwerk.test"]
CATEGORIES = ["fiction", "travel", "cooking", "science", "garden", "crafts"]
COUNTRIES = ["DE", "AT", "CH", "FR", "GB", "NL"]
LANGUAGES = ["de", "de", "de", "fr", "en", "nl"]
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)  # the oldest find


def contact(number: int, seed: int) -> dict[str, Any]:
    """What a scraper found: mostly clean, with the dirt that pages have. One find a minute."""
    rng = random.Random(f"{seed}:{number}")
    first, last, at = rng.choice(FIRST), rng.choice(LAST), rng.randrange(len(SITES))
    site, found = SITES[at], EPOCH + timedelta(minutes=number)
    email = f"{first.lower()}.{last.lower()}{rng.randrange(100_000)}@{site}"
    draw = rng.random()
    if draw < 0.02:
        email = f"mailto:{email}?subject=Hello"
    elif draw < 0.04:
        email = email.replace("@", " (at) ")
    elif draw < 0.06:
        email = f"info@{site}"
    elif draw < 0.07:
        email = f"{first.lower()}{number}@mailinator.com"
    elif draw < 0.08:
        email = f"{email}."
    phone = f"+49 30 {rng.randrange(10**6, 10**7)}" if rng.random() < 0.1 else None
    country = rng.randrange(len(COUNTRIES))
    return {
        "email": email, "name": f"{first} {last}" if rng.random() < 0.8 else None, "phone": phone,
        "page_url": f"https://{site}/page/{number}", "domain": site, "language": LANGUAGES[country],
        "category": CATEGORIES[at], "country": COUNTRIES[country], "found_at": found.isoformat(),
    }  # fmt: skip


def backlink(number: int, seed: int) -> dict[str, Any]:
    """A contact on a page that links to one of ours."""
    rng = random.Random(f"{seed}:link:{number}")
    found = contact(number, seed)
    return found | {
        "referring_domain": found["domain"],
        "target_url": f"https://alpine.example/{rng.choice(['catalogue', 'offers', 'about'])}",
        "anchor": rng.choice(["Alpine Tools", "good tools", "here", "=more()"]),
        "authority": rng.randrange(1, 100),
    }


def service(
    path: str, make: Callable[[int, int], dict[str, Any]], *, count: int, seed: int, key: str,
    fault: str | None = None, fault_every: int = 0, slow_s: float = 60.0,
) -> FastAPI:  # fmt: skip
    """The API with `count` items behind one key."""
    app = FastAPI(title="Stand-in contact API", docs_url=None, redoc_url=None)
    served = {"requests": 0}

    @app.get("/health")
    def health() -> dict[str, bool]:
        return {"ok": True}

    @app.get(path)
    def page(
        request: Request, limit: int = Query(500, ge=1, le=5000), cursor: str | None = None,
        updated_since: datetime | None = None, x_api_key: str = Header(""), x_fault: str | None = Header(None),
    ) -> Any:  # fmt: skip
        if not hmac.compare_digest(x_api_key.encode(), key.encode()):
            raise HTTPException(401, "no such key")
        served["requests"] += 1
        due = fault if fault_every and served["requests"] % fault_every == 0 else None
        wanted = request.query_params.get("fault") or x_fault or due
        start = _start(cursor, updated_since)
        if wanted == "429":
            raise HTTPException(429, "slow down", headers={"Retry-After": "1"})
        if wanted == "500":
            raise HTTPException(500, "something broke")
        if wanted == "gone" and cursor:
            raise HTTPException(410, "this cursor is too old")
        if wanted == "slow":
            time.sleep(slow_s)
        if wanted == "garbage":
            return Response(b'{"items": [{"email": "cut@', media_type="application/json")
        items = [make(number, seed) for number in range(start, min(start + limit, count))]
        if wanted == "columns":
            items = [
                {"mailbox" if name == "email" else f"{name}_x": value for name, value in item.items()} for item in items
            ]
        following = start + len(items)
        as_of = EPOCH + timedelta(minutes=count)
        return {
            "items": items,
            "next_cursor": _cursor(following) if following < count else None,
            "as_of": as_of.isoformat(),
        }

    return app


def _cursor(start: int) -> str:
    return base64.urlsafe_b64encode(f"n:{start}".encode()).decode()


def _start(cursor: str | None, updated_since: datetime | None) -> int:
    if cursor:
        try:
            return int(base64.urlsafe_b64decode(cursor).decode().removeprefix("n:"))
        except ValueError:
            raise HTTPException(400, "no such cursor") from None
    if updated_since is None:
        return 0
    since = updated_since if updated_since.tzinfo else updated_since.replace(tzinfo=UTC)
    return max(0, -int((EPOCH - since) / timedelta(minutes=1)))


def run(path: str, make: Callable[[int, int], dict[str, Any]], *, port: int) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=port)
    parser.add_argument("--count", type=int, default=5000, help="how many items there are")
    parser.add_argument("--seed", type=int, default=1, help="another seed, other people")
    parser.add_argument("--key", default="demo-key", help="what X-API-Key has to be")
    parser.add_argument("--fault", choices=FAULTS)
    parser.add_argument("--fault-every", type=int, default=0, help="every n-th request gets the fault")
    chosen = parser.parse_args()
    app = service(path, make, count=chosen.count, seed=chosen.seed, key=chosen.key, fault=chosen.fault,
                  fault_every=chosen.fault_every)  # fmt: skip
    uvicorn.run(app, host="127.0.0.1", port=chosen.port, log_level="warning")
