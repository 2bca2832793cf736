"""send.build: one message of 10 KB with merge fields, three links and pixel, against EmailMessage and its as_bytes.

Also what signing costs, as messages a second of one thread, against the same reference: send.build_ed25519 and
send.build_rsa; and templates with conditions and a loop: send.build_blocks.

usage: make bench BENCH=send_build        (MESSAGES and ROUNDS in the environment; 20,000 and 5 by default)
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import SMTP
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import measure

from mailmill.pipelines.send import dkim, mime
from mailmill.pipelines.send.messages import Composer, DkimKey, SigningKeys
from mailmill.pipelines.send.tokens import Key

MESSAGES, ROUNDS = int(os.environ.get("MESSAGES", "20000")), int(os.environ.get("ROUNDS", "5"))
LINKS = [f"https://shop.example/{name}" for name in ("boots", "coats", "umbrellas")]
WORDS = "Our spring collection is here: boots, coats and umbrellas for wet days, made to last. "
HTML = (
    "<html><body><h1>Hello {{ name }},</h1>\n" + f"<p>{WORDS * 4}</p>\n" * 21
    + "".join(f'<p>For {{{{ city | default("you") }}}}: <a href="{url}">see</a></p>\n' for url in LINKS)
    + '<p>{{ postal_address }} <a href="{{ unsubscribe_url }}">leave</a></p></body></html>\n'
)  # fmt: skip
TEXT = f"Hello {{{{ name }}}},\n{WORDS}\n" * 8 + "\n".join(LINKS) + "\n{{ postal_address }}\n{{ unsubscribe_url }}\n"
BLOCKS = (
    "{% if city %}<p>Near {{ city | upper }}: <a href='https://shop.example/boots'>boots</a></p>{% endif %}"
    "{% for word in city.split(' ') %}<b>{{ word | title }}</b> {% endfor %}"
)
DATE = mime.date(datetime(2026, 11, 20, tzinfo=UTC))


def composer(*, keys: tuple[dkim.Algorithm, ...] = (), more: str = "") -> Composer:
    content = {
        "merge_fields": ["name", "city"],
        "variants": [{"subject": "Spring for {{ name }}", "html": more + HTML, "text": TEXT, "links": [0, 1, 2]}],
        "from_name": "Harbor & Café", "from_address": "news@harbor.example", "reply_to": "help@harbor.example",
        "return_path_domain": "bounce.harbor.example", "list_id": "spring.harbor.example", "postal_address": "1 Quay",
        "tenant_name": "Harbor", "public_url": "https://t.harbor.example", "links": LINKS,
    }  # fmt: skip
    signing = SigningKeys(tracking=Key(1, b"t" * 32), unsubscribe=Key(2, b"u" * 32), return_path=Key(3, b"r" * 32))
    loaded = [
        DkimKey(domain="harbor.example", selector=name, key=dkim.load(dkim.generate(name).decode(), place="bench"))
        for name in keys
    ]
    return Composer(content, tenant=1, campaign=2, keys=signing, dkim_keys=loaded)


def reference(number: int, name: str, city: str, links: list[str]) -> bytes:
    """The same message by the standard library; its tokens are given."""
    message = EmailMessage(policy=SMTP)
    message["From"] = "Harbor & Café <news@harbor.example>"
    message["Reply-To"] = "help@harbor.example"
    message["To"] = f"person.{number}@mail.example"
    message["Subject"] = f"Spring for {name}"
    message["Date"] = DATE.decode()
    message["Message-ID"] = f"<{number:048}@bounce.harbor.example>"
    message["List-Id"] = "<spring.harbor.example>"
    message["List-Unsubscribe"] = f"<{links[0]}>"
    message["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"
    message["Feedback-ID"] = "2:1:bulk:mailmill"
    values = {"name": name, 'city | default("you")': city, "postal_address": "1 Quay", "unsubscribe_url": links[0]}
    text, html = TEXT, HTML
    for field, value in values.items():
        text, html = (part.replace(f"{{{{ {field} }}}}", value) for part in (text, html))
    for url, link in zip(LINKS, links[1:], strict=True):
        text, html = text.replace(url, link), html.replace(f'"{url}"', f'"{link}"')
    message.set_content(text)
    message.add_alternative(html.replace("</body>", f'<img src="{links[0]}">', 1), subtype="html")
    return message.as_bytes()


def rate(n: int, work: Callable[[int], object]) -> float:
    return n / measure.seconds(lambda: [work(number) for number in range(n)])


def main() -> None:
    links = [f"https://t.harbor.example/c/{'A' * 40}"] * 4
    size = len(composer().compose(1, b"a@b.example", [b"Person 1", b"Oslo"], DATE).content)
    print(f"# {datetime.now(UTC):%Y-%m-%d}, {MESSAGES:,} messages of {size:,} bytes a round", file=sys.stderr)
    kinds = {
        "send.build": (composer(), MESSAGES),
        "send.build_blocks": (composer(more=BLOCKS), MESSAGES),
        "send.build_ed25519": (composer(keys=("ed25519",)), MESSAGES // 5),
        "send.build_rsa": (composer(keys=("rsa",)), MESSAGES // 20),
    }
    rates: dict[str, list[float]] = {name: [] for name in (*kinds, "reference")}
    for _ in range(ROUNDS):
        rates["reference"].append(
            rate(max(50, MESSAGES // 100), lambda n: reference(n, f"Person {n}", f"City {n % 1000}", links))
        )
        for name, (made, n) in kinds.items():
            rows = [(b"person.%d@mail.example" % n, [b"Person %d" % n, b"City %d" % (n % 1000)]) for n in range(n)]
            rates[name].append(rate(n, lambda n, made=made, rows=rows: made.compose(n, *rows[n], DATE)))  # type: ignore[misc]
    for name in kinds:
        measure.result(name, "messages/s", rates[name], rates["reference"])


if __name__ == "__main__":
    main()
