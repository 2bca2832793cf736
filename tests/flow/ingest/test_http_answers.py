"""Answers of an API that no careful program gives: one of them never holds up a source for ever."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest

from mailmill.errors import Misconfigured
from mailmill.io.sources.http_json import HttpFeed, HttpSource

ANN, BOB = '{"email": "ann@x.org", "name": "Ann"}', '{"email": "bob@x.org", "name": "Bob"}'
AS_OF = "2026-11-20T10:00:00Z"


class Handler(BaseHTTPRequestHandler):
    """Says what a test put into `pages`, by the cursor it is asked for."""

    pages: dict[str | None, bytes]

    def do_GET(self) -> None:
        cursor = parse_qs(urlsplit(self.path).query).get("cursor", [None])[0]
        body = self.pages[cursor]
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words: object) -> None:
        return None


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join(60)


@pytest.fixture
def source(mill):
    return mill.source("api", type="scraper_pro", url="http://127.0.0.1:1", api_key="env:KEY")


def answer(*items: str, following: str = "null", as_of: str = f'"{AS_OF}"') -> bytes:
    return f'{{"items": [{", ".join(items)}], "next_cursor": {following}, "as_of": {as_of}}}'.encode()


def feed(url: str, *pages: bytes, **settings) -> HttpFeed:
    """The first page, then those behind the cursors 1, 2 …"""
    Handler.pages = {str(n) if n else None: page for n, page in enumerate(pages)}
    quick = {"backoff_s": 0.01, "attempts": 2, "private": ("127.0.0.1",)} | settings
    return HttpFeed(HttpSource(url=url, type="scraper_pro", key="k", name="acme/api", **quick))


@pytest.mark.parametrize(
    ("page", "says"),
    [
        (answer(ANN, following='"a\\u0000b"'), "`next_cursor` holds U\\+0000"),
        (answer(ANN, as_of='"a\\u0000b"'), "`as_of` holds U\\+0000"),
        (answer(ANN, following=f'"{"c" * 70_000}"'), "`next_cursor` is longer than 8,192 characters"),
        (answer(ANN, f'{{"email": "bob@x.org", "note": {"[" * 2000}{"]" * 2000}}}'), "nested too deeply"),
        (answer("{" + ", ".join(f'"f{n}": "x"' for n in range(2500)) + "}"), "2,500 different fields"),
    ],
    ids=["cursor", "as_of", "long", "deep", "wide"],
)
def test_an_answer_that_cannot_be_kept_is_refused_in_a_sentence_and_a_better_one_is_taken(
    mill, source, url, page, says
):
    with pytest.raises(Misconfigured, match=says) as caught:
        mill.run(source, feed(url, page))
    assert str(caught.value).startswith(f"acme/api ({url}/v1/contacts): ")
    assert mill.run(source, feed(url, answer(ANN))).loaded.counts.new == 1


def test_an_empty_cursor_says_that_it_was_the_last_page(mill, source, url):
    pages = answer(ANN, following='"1"'), answer(BOB, following='""')
    assert mill.run(source, feed(url, *pages)).loaded.counts.new == 2
    (row,) = mill.rows("SELECT cursor FROM sources")
    assert row["cursor"] == {"updated_since": AS_OF, "page": None, "as_of": None, "full": None}


@pytest.mark.parametrize("levels", [200, 900])
def test_P01_an_item_nested_deep_is_text_like_any_other(mill, source, url, levels):
    nested = "[" * levels + '{"a":1,"b":[true,null,"ö"]}' + "]" * levels
    deep = f'{{"email": "bob@x.org", "note": {nested}, "deleted": false}}'
    gone = f'{{"email": "cy@x.org", "note": {nested}, "deleted": true}}'
    done = mill.run(source, feed(url, answer(ANN, deep, gone)))
    assert (done.loaded.counts.new, done.validated.reasons) == (2, {"withdrawn": 1})
    assert mill.contacts()["bob@x.org"]["fields"]["note"] == nested
    assert not mill.run(source, feed(url, answer(ANN, deep, gone))).received.batches


def test_P01_values_that_are_no_characters_and_no_numbers_cost_no_page(mill, source, url):
    careless = (
        '{"email": "bob@x.org", "name": "B\\ud83d", "authority": NaN, "rank": 1e999, "size": 12345678901234567890123}'
    )
    page = answer(ANN, careless, '{"email": "cy@x.org", "name": "C\\u0000y"}').replace(b'"Ann"', b'"Ann\xff"')
    done = mill.run(source, feed(url, page))
    assert done.loaded.counts.new == 3
    kept = mill.contacts()
    assert [kept[f"{who}@x.org"]["name"] for who in ("ann", "bob")] == ["Ann\ufffd", "B?"]
    assert kept["bob@x.org"]["fields"] == {"authority": "NaN", "rank": "1e999", "size": "1.2345678901234568e+22"}


def test_P04_names_of_fields_are_cleaned_as_those_of_a_file_are(mill, source, url):
    odd = '{"email": "ann@x.org", "E-Mail\\u0000": "old@x.org", "shoe\\u0000 size": 41, "": "empty"}'
    done = mill.run(source, feed(url, answer(odd)))
    assert done.loaded.counts.new == 1
    assert set(mill.contacts()["ann@x.org"]["fields"]) >= {"shoe_size"}
    assert not any("\x00" in name for name in mill.store.columns(source)[0])


@pytest.mark.parametrize("key", ["\ufeffk", "k\r"], ids=["byte order mark", "line of Windows"])
def test_a_key_that_no_header_can_hold_is_said_without_showing_it(url, key):
    with pytest.raises(Misconfigured, match=r"the API's key holds what no header can\n.*`api_key`"):
        list(HttpFeed(HttpSource(url=url, type="scraper_pro", key=key, private=("127.0.0.1",))).batches(None))


def test_F17_pages_in_a_circle_end_the_walk_and_are_taken_once_they_are_put_right(mill, source, url):
    circle = [answer(f'{{"email": "p{n}@x.org"}}', following=f'"{n % 5 + 1}"') for n in range(6)]
    with pytest.raises(Misconfigured, match="repeats a cursor"):
        mill.run(source, feed(url, *circle, rows_per_batch=2))
    assert 0 < mill.rows("SELECT sum(rows_read)::int n FROM batches")[0]["n"] <= 6
    done = mill.run(source, feed(url, *circle[:5], answer('{"email": "p5@x.org"}'), rows_per_batch=2))
    assert len(mill.contacts()) == 6 and done.loaded.counts.batches > 1


def test_F17_a_walk_that_begins_again_may_meet_the_same_cursors(mill, source, url):
    pages = [answer(ANN, following='"1"'), answer(BOB)]
    assert mill.run(source, feed(url, *pages)).loaded.counts.new == 2
    assert mill.run(source, feed(url, *pages)).received.rows == 0
