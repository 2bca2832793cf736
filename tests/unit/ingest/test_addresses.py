"""Addresses as people type them. F38: one key a mailbox, the local part as typed for sending."""

from __future__ import annotations

from importlib import resources

import idna
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailmill.pipelines.ingest import phones, wordlists
from mailmill.pipelines.ingest.addresses import check, examine, masked
from mailmill.pipelines.ingest.masks import mask
from mailmill.pipelines.ingest.rejects import REASONS
from mailmill.pipelines.ingest.verdicts import RISKS


@pytest.mark.parametrize(
    ("typed", "address", "key"),
    [
        ("Ann.Lee@Example.ORG", "Ann.Lee@example.org", "ann.lee@example.org"),
        ("  a@x.org\u00a0 ", "a@x.org", "a@x.org"),
        ("a+news@x.org", "a+news@x.org", "a+news@x.org"),
        ("a.b.c@gmail.com", "a.b.c@gmail.com", "a.b.c@gmail.com"),
        ("a@BÜCHER.example", "a@xn--bcher-kva.example", "a@xn--bcher-kva.example"),
        ("a@xn--bcher-kva.example", "a@xn--bcher-kva.example", "a@xn--bcher-kva.example"),
        ("a@faß.de", "a@xn--fa-hia.de", "a@xn--fa-hia.de"),  # IDNA 2008: ß is a letter of its own
        ("a@例え。みんな", "a@xn--r8jz45g.xn--q9jyb4c", "a@xn--r8jz45g.xn--q9jyb4c"),
        ("ａｎｎ＠x.org", "ann@x.org", "ann@x.org"),
        ("Ann <a@x.org>", "a@x.org", "a@x.org"),
        ('"Doe, Jane" <Jane@x.org>', "Jane@x.org", "jane@x.org"),
        ("<a@x.org>", "a@x.org", "a@x.org"),
        ("mailto:a@x.org?subject=hi", "a@x.org", "a@x.org"),
        ("a@x.org;", "a@x.org", "a@x.org"),
        ("'a@x.org'", "a@x.org", "a@x.org"),
        ('"a@x.org"', "a@x.org", "a@x.org"),
        ("“mailto:a@x.org”", "a@x.org", "a@x.org"),
        ("'o'neil@x.org'", "o'neil@x.org", "o'neil@x.org"),
        ("a@x.org.", "a@x.org", "a@x.org"),
        ("a\u200b@x.org", "a@x.org", "a@x.org"),
        ("a\u200d@x.org\u200c", "a@x.org", "a@x.org"),
        ("e\u0301@x.org", "é@x.org", "é@x.org"),
        # RFC 6532 3.1: NFKC makes another mailbox of these, and so does taking off what joins letters
        ("x²@x.org", "x²@x.org", "x²@x.org"),
        ("ﬁ@ｘ．ｏrg", "ﬁ@x.org", "fi@x.org"),
        ("नमस्\u200dते@x.org", "नमस्\u200dते@x.org", "नमस्\u200dते@x.org"),
        ("a@نامه\u200cای.com", "a@xn--mgba3gch31f060k.com", "a@xn--mgba3gch31f060k.com"),
        ('"john doe"@x.org', '"john doe"@x.org', '"john doe"@x.org'),
        ('"ann"@x.org', '"ann"@x.org', "ann@x.org"),
        ("!#$%&'*+/=?^_`{|}~-@x.org", "!#$%&'*+/=?^_`{|}~-@x.org", "!#$%&'*+/=?^_`{|}~-@x.org"),
        ("Jürgen@x.org", "Jürgen@x.org", "jürgen@x.org"),
        ("x" * 64 + "@x.org", "x" * 64 + "@x.org", "x" * 64 + "@x.org"),
        ("a@host.invalid", "a@host.invalid", "a@host.invalid"),
    ],
)
def test_F38_a_mailbox_has_one_key_and_keeps_its_spelling(typed, address, key):
    checked = check(typed)
    assert (checked.address, checked.address_key) == (address, key)
    assert checked.verdict in ("valid", "risky")


@pytest.mark.parametrize(
    ("typed", "reason"),
    [
        ("", "no_address"),
        ("nobody", "address_without_at"),
        ("Ann Lee", "address_without_at"),
        ("@x.org", "local_part_syntax"),
        ("a@@x.org", "local_part_syntax"),
        ("a b@x.org", "local_part_syntax"),
        ("a\u00a0b@x.org", "local_part_syntax"),
        (".a@x.org", "local_part_syntax"),
        ("a..b@x.org", "local_part_syntax"),
        ('"a\nb"@x.org', "local_part_syntax"),
        ("x" * 65 + "@x.org", "address_too_long"),
        ("a@" + ".".join(["d" * 60] * 5) + ".org", "address_too_long"),
        ("a@" + "d" * 64 + ".org", "domain_syntax"),
        ("a@-x.org", "domain_syntax"),
        ("a@x_y.org", "domain_syntax"),
        ("a@x.1", "domain_syntax"),
        ("a@x..org", "domain_syntax"),
        ("a@localhost", "domain_without_dot"),
        ("a@[127.0.0.1]", "domain_literal"),
        ("a@\u2603\u200d.example", "domain_idna"),
        ("a@x.org, b@x.org", "several_addresses"),
        ("'a@x.org', 'b@x.org'", "several_addresses"),
        ("a@x.org b@x.org", "several_addresses"),
    ],
)
def test_what_is_no_address_says_why(typed, reason):
    checked = check(typed)
    assert (checked.verdict, checked.verdict_reason, checked.address) == ("invalid", reason, None)


@pytest.mark.parametrize(
    ("typed", "reason"),
    [
        ("info@x.org", "role_address"),
        ("No-Reply+7@x.org", "role_address"),
        ("ann@Mailinator.com", "disposable_domain"),
        ('"a b"@x.org', "quoted_local_part"),
        ("ünï@x.org", "needs_smtputf8"),
    ],
)
def test_what_can_be_mailed_but_should_be_looked_at_is_risky(typed, reason):
    checked = check(typed)
    assert (checked.verdict, checked.verdict_reason) == ("risky", reason)


@pytest.mark.parametrize("domain", ["b.commm", "foo.abcxyz", "x.c0m", "x.xn--zzzzzz"])
def test_a_domain_below_no_top_level_domain_is_impossible(domain):
    assert check(f"a@{domain}").verdict == "invalid"


@pytest.mark.parametrize("domain", ["foo.corp", "router.lan", "x.home", "foo.internal"])
def test_a_domain_of_private_networks_is_reserved(domain):
    assert (check(f"a@{domain}").verdict, check(f"a@{domain}").verdict_reason) == ("risky", "reserved_domain")


def test_no_top_level_domain_of_iana_is_missing():
    """When this fails, refresh data/top_domains.txt as its first lines say."""
    copy = resources.files("hypothesis.vendor").joinpath("tlds-alpha-by-domain.txt").read_text(encoding="ascii")
    names = {line.lower() for line in copy.splitlines() if not line.startswith("#")}
    assert names - wordlists.top_domains() == set()
    assert len(wordlists.top_domains()) > 1400


def test_every_row_has_its_answer_in_its_place():
    typed = pl.Series(["b@x.org", None, "Ann <a@x.org>", "", "bad", "c@x.org"])
    found = examine(typed)
    assert found["address"].to_list() == ["b@x.org", None, "a@x.org", None, None, "c@x.org"]
    assert found["verdict"].to_list() == ["valid", None, "valid", None, "invalid", "valid"]
    assert found["display_name"][2] == "Ann"
    assert examine(pl.Series([], dtype=pl.String)).height == 0


@settings(max_examples=50)  # of a list of addresses each
@given(st.lists(st.one_of(st.none(), st.text(max_size=80), st.emails(), st.from_regex(r'["a@. <>é,]{1,12}'))))
def test_any_text_has_a_verdict_and_a_known_reason(texts):
    found = examine(pl.Series(texts, dtype=pl.String))
    assert found.height == len(texts)
    for row in found.iter_rows(named=True):
        assert row["verdict_reason"] is None or row["verdict_reason"] in {**REASONS, **RISKS}
        if row["address"] is not None:
            local, _, domain = row["address"].rpartition("@")
            assert len(local.encode()) <= 64 and len(row["address"].encode()) <= 254
            assert domain.isascii() and domain == domain.lower() and "." in domain
            assert not any(ord(character) < 32 for character in row["address"])  # nothing that ends an SMTP line


@pytest.mark.parametrize(
    ("address", "shown"),
    [("ann@example.org", "a***@e***.org"), ("a@x.co.uk", "a***@x***.uk"), ("+49301234567", "+49***"), ("", "***")],
)
def test_a_masked_address_shows_nobody(address, shown):
    assert mask(address) == shown
    assert pl.select(masked(pl.lit(address))).item() == shown


def test_phone_numbers_become_e164_by_the_country_of_their_row():
    typed = pl.Series(["030 1234567", "+43 1 234567", "030 1234567", "12", None, "020 7946 0000", "tel:+49-30-1234567"])
    region = pl.Series(["DE", None, None, "DE", "DE", "GB", None])
    assert phones.examine(typed, region).to_list() == [
        "+49301234567", "+431234567", None, None, None, "+442079460000", "+49301234567",
    ]  # fmt: skip


@settings(max_examples=30)
@given(st.lists(st.emails(), max_size=20))
def test_P05_an_address_is_itself_again_and_keeps_its_key(texts):
    first = examine(pl.Series(texts, dtype=pl.String))
    taken = first.filter(pl.col("address").is_not_null())
    again = examine(taken["address"])
    assert again.select("address", "address_key", "domain", "verdict", "score").equals(
        taken.select("address", "address_key", "domain", "verdict", "score"), null_equal=True
    )


@settings(max_examples=30)
@given(st.lists(st.text("abcxyzäöüßéøñçабвгдеαβγ例え", min_size=1, max_size=12), min_size=1, max_size=10))
def test_P05_a_domain_in_another_script_comes_back_from_ascii(labels):
    found = examine(pl.Series([f"a@{label}.org" for label in labels]))["domain"]
    assert examine("a@" + found)["domain"].equals(found, null_equal=True)
    for label, domain in zip(labels, found, strict=True):
        if domain is not None:
            assert idna.decode(domain) == idna.uts46_remap(f"{label}.org", True, False)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("gmial.com", "gmail.com"), ("gmail.con", "gmail.com"), ("gamil.co", "gmail.com"),
        ("hotmal.fr", "hotmail.fr"), ("yaho.co.uk", "yahoo.co.uk"), ("outlok.com", "outlook.com"),
        ("web.ed", "web.de"), ("gmail.com", None), ("mail.com", None), ("ymail.com", None), ("yahoo.cn", None),
        ("hotmail.rs", None), ("lookout.com", None), ("mail.co", None), ("x.org", None),
    ],
)  # fmt: skip
def test_a_slip_in_a_big_providers_name_is_suggested_and_what_exists_is_left_alone(typed, meant):
    checked = check(f"Ann@{typed}")
    assert checked.suggestion == (meant and f"Ann@{meant}")
    assert checked.verdict_reason == (meant and "likely_typo")


def test_no_provider_and_no_real_domain_is_called_a_slip():
    names = [*wordlists.mail_providers(), *wordlists.real_domains()]
    found = examine(pl.Series([f"ann@{name}" for name in names]))
    assert found["suggestion"].null_count() == found.height
    assert found.filter(pl.col("verdict") != "valid").is_empty()
