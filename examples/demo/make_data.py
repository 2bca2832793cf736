"""Makes the demo's files: contacts as people really have them, with every kind of dirt, the same at every run.

usage: python examples/demo/make_data.py FOLDER
"""

from __future__ import annotations

import csv
import io
import random
import sys
from collections.abc import Iterable
from pathlib import Path

FIRST = [
    "Anna",
    "Ben",
    "Chiara",
    "David",
    "Elif",
    "Femi",
    "Greta",
    "Hugo",
    "Ines",
    "Jonas",
    "Karin",
    "Liam",
    "Maja",
    "Noah",
    "Olga",
    "Pavel",
    "Quinn",
    "Rosa",
    "Sven",
    "Tara",
]
LAST = [
    "Abel",
    "Berg",
    "Costa",
    "Duval",
    "Eriksen",
    "Fischer",
    "Garcia",
    "Huber",
    "Ivanova",
    "Jansen",
    "Koch",
    "Lange",
    "Moreau",
    "Novak",
    "Olsen",
    "Petit",
]
DOMAINS = [
    "mail.example",
    "post.example",
    "inbox.example",
    "kontor.test",
    "verlag.test",
    "werkstatt.test",
    "studio.test",
    "office.example",
]
IDN = ["bücher.example", "müller.test", "café.example"]
CATEGORIES = ["fiction", "travel", "cooking", "science"]
LANGUAGES = ["de", "en", "fr"]
COUNTRIES = ["DE", "AT", "CH", "FR", "GB"]
HEADER = ["E-Mail", "Name", "Phone", "Language", "Category", "Country", "Note"]

# kind of dirt -> what it makes of a clean row; the share of rows each gets is DIRT_SHARE
DIRT = {
    "case": lambda row, rng: row | {"E-Mail": row["E-Mail"].replace("@", "@").upper()},
    "spaces": lambda row, rng: row | {"E-Mail": f"  {row['E-Mail']}\u00a0 ", "Name": f" {row['Name']}  "},
    "broken_syntax": lambda row, rng: (
        row | {"E-Mail": rng.choice(["@nobody", "no-at.example", "a@@b.example", "a b@c.example"])}
    ),
    "idn": lambda row, rng: row | {"E-Mail": row["E-Mail"].split("@")[0] + "@" + rng.choice(IDN)},
    "role": lambda row, rng: row | {"E-Mail": rng.choice(["info", "sales", "office"]) + f"@{rng.choice(DOMAINS)}"},
    "disposable": lambda row, rng: row | {"E-Mail": row["E-Mail"].split("@")[0] + "@mailinator.com"},
    "formula": lambda row, rng: row | {"Note": '=HYPERLINK("http://evil.example","click")'},
    "display_name": lambda row, rng: row | {"E-Mail": f"{row['Name']} <{row['E-Mail']}>"},
    "phone_only": lambda row, rng: row | {"E-Mail": "", "Phone": f"+49 30 {rng.randrange(10**6, 10**7)}"},
    "missing": lambda row, rng: row | {"E-Mail": "", "Phone": ""},
}
DIRT_SHARE = 0.015


def person(number: int) -> dict[str, str]:
    """A clean row; the same number is the same person, in whatever file."""
    rng = random.Random(number)
    first, last = rng.choice(FIRST), rng.choice(LAST)
    return {
        "E-Mail": f"{first.lower()}.{last.lower()}{number}@{rng.choice(DOMAINS)}",
        "Name": f"{first} {last}",
        "Phone": "",
        "Language": rng.choice(LANGUAGES),
        "Category": rng.choice(CATEGORIES),
        "Country": rng.choice(COUNTRIES),
        "Note": "",
    }


def people(rng: random.Random, start: int, count: int) -> list[dict[str, str]]:
    """Rows with dirt: each kind takes its share, and some rows come twice, written differently."""
    rows: list[dict[str, str]] = []
    for number in range(start, start + count):
        row = person(number)
        draw = rng.random()
        for index, make in enumerate(DIRT.values()):
            if index * DIRT_SHARE <= draw < (index + 1) * DIRT_SHARE:
                row = make(row, rng)
        rows.append(row)
        if rows and rng.random() < 0.03:
            again = dict(rng.choice(rows))
            rows.append(again | {"E-Mail": again["E-Mail"].title() if rng.random() < 0.5 else again["E-Mail"]})
    return rows


def as_csv(
    rows: Iterable[dict[str, str]], *, delimiter: str = ",", newline: str = "\r\n", header: list[str] = HEADER
) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, header, delimiter=delimiter, lineterminator=newline, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def ragged(text: str, rng: random.Random) -> str:
    """Some lines lose their end, some get too many fields."""
    lines = text.split("\n")
    for index in range(20, len(lines) - 1, 97):
        cut = lines[index].rstrip("\r")
        lines[index] = cut.rsplit(",", 3)[0] if rng.random() < 0.5 else cut + ",surplus,surplus"
    return "\n".join(lines)


def make(folder: Path, *, scale: float = 1.0, seed: int = 7) -> None:
    """Write the inboxes of both tenants and the list of addresses that were suppressed before."""
    rng = random.Random(seed)
    harbor, alpine = folder / "inbox" / "harbor", folder / "inbox" / "alpine"
    for path in (harbor, alpine):
        path.mkdir(parents=True, exist_ok=True)
    rows = people(rng, 0, int(4500 * scale))
    (harbor / "2026-spring.csv").write_text(ragged(as_csv(rows), rng), encoding="utf-8-sig", newline="")
    # a spreadsheet program of Western Europe: semicolons and Windows-1252
    western = people(rng, 4000, int(2400 * scale))  # 500 addresses of the first file come again
    (harbor / "messe-leads.csv").write_bytes(as_csv(western, delimiter=";").encode("cp1252", "replace"))
    # one that writes UTF-16 with tabs, and knows neither language nor country
    short = people(rng, 8000, int(1100 * scale))
    (harbor / "export-unicode.txt").write_bytes(
        as_csv(short, delimiter="\t", header=["E-Mail", "Name", "Phone", "Category"]).encode("utf-16")
    )
    partners = people(rng, 2000, int(3000 * scale))
    broken = as_csv(partners, newline="\n").encode()
    # a few lines were pasted in another encoding: they cannot be read as UTF-8 and must not spoil the rest
    (alpine / "partners.csv").write_bytes(
        broken + "zoë.pasted@mail.example,Zoë Pasted,,de,travel,DE,\n".encode("latin-1")
    )
    known = [person(number)["E-Mail"] for number in range(20, 20 + int(300 * scale))]
    (folder / "suppressed.txt").write_text("\n".join(known) + "\n")


if __name__ == "__main__":
    make(Path(sys.argv[1]))
