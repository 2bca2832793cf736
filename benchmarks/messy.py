"""A list as people have it, of any length: mixed case, outer spaces, a quarter of duplicates, bad and odd addresses,
quotes and quoted line breaks, ragged lines. Seeded: the same number of rows is the same file."""

from __future__ import annotations

from pathlib import Path

import polars as pl

PIECE = 250_000  # rows made at once
_FIRST = ["Anna", "Ben", "Carla", "David", "Eva", "Felix", "Greta", "Hugo", "Ida", "Jan", "Kim", "Léa", "Zoë", "Jörg"]
_LAST = ["Keller", "Smith", "Rossi", "Novak", "Silva", "Dubois", "Jensen", "Popov", "Yilmaz", "Müller", "Lee", "Costa"]
_CITY = ["Wien", "Roma", "Oslo", "Porto", "Praha", "Lyon", "Bern", "Köln", "Riga", "Cork"]
_LAND = ["AT", "Italy", "no", "PT", "Czechia", "FR", "Schweiz", "DE", "LV", "IE"]
_SPOKEN = ["de", "it", "no", "pt", "cs", "fr", "de-CH", "German", "lv", "en"]
_BAD = ["broken@@x.example", "nobody", "a b@x.example", "x@nodot", "@x.example", "dot.@x.example", "n/a", "-"]


def write(path: Path, rows: int) -> None:
    """Write `rows` records below a header, about 67 bytes each."""
    with path.open("wb") as file:
        file.write(b"email,name,language,country,city,found_at\n")
        for start in range(0, rows, PIECE):
            file.write(_piece(start, min(PIECE, rows - start), rows))


def _piece(start: int, count: int, rows: int) -> bytes:
    n = pl.int_range(start, start + count, dtype=pl.UInt64)
    dice = pl.col("n").hash(seed=7)
    # a quarter of the rows say again what another row of the file says
    again = pl.col("n").hash(seed=5)
    person = pl.when(again % 4 == 0).then(again // 8 % rows).otherwise("n").alias("person")
    frame = pl.select(n=n).with_columns(person, dice=dice).with_columns(face=pl.col("person").hash(seed=11))
    face, dice = pl.col("face"), pl.col("dice")
    words = {
        "first": _pick(_FIRST, face), "last": _pick(_LAST, face // 32), "city": _pick(_CITY, face // 512),
        "land": _pick(_LAND, face // 512), "tongue": _pick(_SPOKEN, face // 512),
    }  # fmt: skip
    host = (
        pl.when(face % 1000 < 300).then(pl.lit("gmail.com"))
        .when(face % 1000 < 305).then(pl.lit("mailinator.com"))
        .when(face % 1000 < 310).then(pl.lit("bücher.example"))
        .otherwise(pl.format("mail{}.example", face % 5000))
    )  # fmt: skip
    local = pl.when(face % 1000 == 7).then(pl.lit("info")).otherwise(pl.format("{}.{}", "plain", "person"))
    plain = pl.col("last").replace({"Müller": "Mueller"}).alias("plain")
    frame = (
        frame.with_columns(**words).with_columns(plain).with_columns(address=pl.concat_str(local, pl.lit("@"), host))
    )
    return _written(frame, dice)


def _written(frame: pl.DataFrame, dice: pl.Expr) -> bytes:
    """As typed: one row in some is spelt, spaced, quoted or broken in its own way."""
    address = pl.col("address")
    typed = (
        pl.when(dice % 199 == 1).then(_pick(_BAD, dice // 512))
        .when(dice % 10 == 1).then(address.str.to_uppercase())
        .when(dice % 20 == 3).then(pl.format(" {} ", address))
        .when(dice % 500 == 5).then(pl.format("{} <{}>", "first", address))
        .when(dice % 700 == 6).then(pl.format("mailto:{}", address))
        .otherwise(address)
    )  # fmt: skip
    name = (
        pl.when(dice % 30 == 2).then(pl.format('"{}, {}"', "last", "first"))
        .when(dice % 300 == 4).then(pl.format('"{}\n{}"', "first", "last"))
        .when(dice % 5000 == 9).then(pl.format('{} "Bo" {}', "first", "last"))
        .when(dice % 9 == 1).then(pl.format(" {} {}", "first", "last"))
        .otherwise(pl.format("{} {}", "first", "last"))
    )  # fmt: skip
    day = pl.format("2026-{}-{}", (dice // 64 % 9 + 1).cast(pl.String).str.zfill(2),
                    (dice // 1024 % 28 + 1).cast(pl.String).str.zfill(2))  # fmt: skip
    city = pl.when(dice % 2000 == 8).then(pl.lit("Wien,Graz")).otherwise("city")  # one field too many
    line = pl.concat_str(typed, name, "tongue", "land", city, day, separator=",")
    return (frame.select(line.str.join("\n")).item() + "\n").encode()


def _pick(words: list[str], number: pl.Expr) -> pl.Expr:
    return pl.lit(pl.Series(words)).gather(number % len(words))
