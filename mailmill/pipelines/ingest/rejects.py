"""Rows that were not taken in: where they stand, why, and how to hand them back to the person who sent them."""

from __future__ import annotations

import polars as pl

REJECTED_SCHEMA = pl.Schema(
    {
        "batch_id": pl.Int64(),
        "source": pl.String(),  # slug
        "line": pl.Int64(),  # of the file, from 1; of an API's answer, the number of the item
        "field": pl.String(),  # which value is wrong; null when it is the line as a whole
        "reason": pl.String(),  # a code of REASONS
        "raw": pl.String(),  # the row as it came, cut at RAW_TEXT_LIMIT characters
    }
)
RAW_TEXT_LIMIT = 65_536
MAX_VALUE = 10_000  # bytes

WITHDRAWN = "withdrawn"
REASONS = {
    WITHDRAWN: "the source says that it has deleted this contact",
    # the line
    "ragged_line": "the line has more or fewer fields than the header",
    "broken_quote": "a quote opens and never closes, or text follows a closing quote",
    "nul_character": "the line holds a NUL character: a damaged file, or no text",
    "field_too_long": "a field is longer than 1 MB",
    "line_too_long": "the line is longer than 16 MiB",
    "bad_encoding": "the line is not in the encoding of the rest of the file",
    # the row
    "no_address": "neither an e-mail address nor a phone number is given",
    "value_too_long": "a value is longer than 10,000 characters",
    "field_type": "the value does not fit the type of its custom field",
    "forgotten": "the person was forgotten and stays out; nothing of the row is kept",
    # the address
    "address_without_at": "the address has no @",
    "several_addresses": "one cell holds several addresses",
    "local_part_syntax": "the part before the @ cannot be written so",
    "address_too_long": "longer than 64 octets before the @, or than 254 in all",
    "domain_syntax": "the part after the @ is no domain name",
    "domain_without_dot": "the domain has no dot, so no mail gets there from outside",
    "domain_literal": "the address names an IP address in place of a domain",
    "domain_idna": "the domain has characters that no registry allows (IDNA 2008)",
    "domain_impossible": "no mail gets there: the domain ends in no top-level domain (IANA's list)",
    # the phone number
    "phone_syntax": "the phone number is impossible, or lacks its country",
}

_FORMULA = r"^([=+\-@\t\r])"
# where a spreadsheet program's list separator is a semicolon, quotes within a line mean nothing to it: a cell ends at
# each of these; commas are data there
_FORMULA_WITHIN = r"([;|\t\r\n]\x22*)([=+\-@])"


def defused(cell: pl.Expr) -> pl.Expr:
    """What a spreadsheet program would run as a formula gets a leading apostrophe, also where it divides lines at
    another character than ours.

    Only for what people open: data is kept as it came.
    Source: OWASP ASVS 1.2.10.
    """
    return cell.str.replace(_FORMULA, "'$1").str.replace_all(_FORMULA_WITHIN, "$1'$2")


def as_csv(rejected: pl.DataFrame) -> bytes:
    """Rejects as a CSV file for a spreadsheet program: UTF-8 with BOM, the reason explained, formulas defused.

    In: REJECTED_SCHEMA.
    """
    explained = pl.col("reason").replace_strict(REASONS, default=pl.col("reason"), return_dtype=pl.String)
    text = pl.col(pl.String).str.replace_all("\x00", "\ufffd", literal=True)  # where a program would stop reading
    cells = rejected.with_columns(explanation=explained).with_columns(defused(text))
    return b"\xef\xbb\xbf" + cells.write_csv(line_terminator="\r\n").encode()


def counted(rejected: pl.DataFrame) -> dict[str, int]:
    """Reason -> rows, the most frequent first."""
    counts = rejected.group_by("reason").len().sort(["len", "reason"], descending=[True, False])
    return {str(reason): int(n) for reason, n in counts.iter_rows()}
