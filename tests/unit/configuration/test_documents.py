"""Documents -> specs or problems that name place, field and what is allowed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mailmill.io import project_files
from mailmill.pipelines.configuration import content, documents, references
from mailmill.pipelines.configuration.documents import Problem

TENANT = "kind: tenant\nslug: acme\nname: Acme\npostal_address: Acme, 1 Road\n"


def problems(folder: Path, **files: str | bytes) -> list[str]:
    """Every problem of these files, without the folder's name."""
    for name, text in files.items():
        data = text if isinstance(text, bytes) else text.encode()
        (folder / f"{name}.yaml").write_bytes(data)
    found, unreadable = project_files.read([folder])
    declared, invalid = documents.validate(found)
    declared, missing = project_files.inline(declared)
    known: list[Problem] = [*unreadable, *invalid, *missing, *content.check(declared), *references.check(declared, ())]
    return [str(problem).removeprefix(f"{folder}/") for problem in known]


KINDS = "tenant, tag, field, source, transport, identity, template, segment, campaign"
CAMPAIGN = "kind: campaign\ntenant: a\nslug: b\nsegment: s\ntemplate: t\nidentity: i\ntransport: t\n"


@pytest.mark.parametrize(
    ("text", "line", "expected"),
    [
        ("kind: tenant\nslug: Acme\nname: A\npostal_address: x\n", 2,
         "slug: lower-case letters, digits and hyphens are allowed, at most 63"),
        ("kind: tenant\nslug: a\nname: A\n", 1, "postal_address: is missing from this tenant"),
        (TENANT + "nmae: x\n", 5,
         "nmae: is unknown (did you mean name?); allowed: kind, slug, name, postal_address, time_zone, merge"),
        (CAMPAIGN + "window:\n  dayz: [mon]\n", 9,
         "window.dayz: is unknown (did you mean days?); allowed: days, start, end, time_zone"),
        (TENANT + "merge: {plus_tag: true}\n", 5,
         "merge.plus_tag: is unknown (did you mean plus_tags?); allowed: plus_tags, dots, phone"),
        (CAMPAIGN + "window: {days: []}\n", 8, "window.days: one at least is needed here"),
        (CAMPAIGN + "doubt: maybe\n", 8, "doubt: 'maybe' is not allowed; allowed: 'hold' or 'resend'"),
        (CAMPAIGN + "misfire_grace_s: 60\n", 8,
         "misfire_grace_s: at least 120: what is due is looked for once a minute, so "
         "with less a start that nothing is in the way of could count as missed"),
        ("kind: tenent\n", 1, f"kind: 'tenent' is unknown (did you mean tenant?); allowed: {KINDS}"),
        ("slug: a\n", 1, f"kind: is missing; allowed: {KINDS}"),
        ("- a\n", 1, "a document is a list of `field: value`, beginning with `kind:`"),
        (TENANT + "time_zone: Mars/Base\n", 5,
         "time_zone: 'Mars/Base' is no time zone of the tz database, such as Europe/Berlin"),
        (CAMPAIGN + "start: 2026-12-01T09:00:00\n", 8,
         "start: a time needs its offset, such as 2026-12-01T09:00:00+01:00"),
        (CAMPAIGN + "start: tomorrow\n", 8,
         "start: a time with its offset is allowed, such as 2026-12-01T09:00:00+01:00"),
        *[(CAMPAIGN + f"window: {{end: {end}}}\n", 8, 'window.end: a time of day is allowed, such as "08:00"')
          for end in ("8:00", "[8]", "8 h")],
        ("kind: transport\ntenant: a\nslug: b\ntype: smtp\nusername: x\npassword: hunter2\n", 6,
         "password: a secret is a reference, env:NAME or file:path, never the value itself"),
        *[(f"kind: transport\ntenant: a\nslug: b\ntype: smtp\nusername: x\npassword: env:P\ntls: {tls}\n", 1,
           f"tls: {tls} may send the password in the clear: set tls to required or implicit")
          for tls in ("none", "opportunistic")],
        *[("kind: transport\ntenant: a\nslug: b\ntype: smtp\nhost: " + host + "\n", 5, "host: the name of a host is "
           "allowed, as punycode, or its address, such as smtp.example.org or 192.0.2.1")
          for host in ("relay..example", "smtp.example.org:587", "smtp://relay", "'-x.org'", "a" * 64 + ".org")],
        *[("kind: source\ntenant: a\nslug: b\ntype: scraper_pro\napi_key: env:K\nurl: " + url + "\n", 6, "url: " + said)
          for url, said in (
              ("http://bob:s3cretpw@api.example.org", "a name or password has no place in a URL, which is shown; a "
               "secret is a reference"),
              ("https://bob@api.example.org/v2", "a name or password has no place in a URL, which is shown; a "
               "secret is a reference"),
              ("https://api.example.org?key=s3cretpw", "nothing may stand behind the path of the URL: no ? and no #"),
              ("'https://api.example.org/#'", "nothing may stand behind the path of the URL: no ? and no #"),
              *((wrong, "a URL is allowed that begins with http:// or https://, such as https://api.example.org")
                for wrong in ("ftp://api.example.org", "api.example.org", "'http:///v1'", "https://api.example.org:x",
                              "'http:\\\\bob:s3cretpw@x.org'", "'https://[::1'")))],
        (TENANT + "---\n" + TENANT, 6, "tenant acme stands at a.yaml:1 already"),
        ("\n\na: [1\n", 4, "not valid YAML: expected ',' or ']', but got '<stream end>'"),
        ("a: 1\nscore: " + "9" * 5000 + "\n", 2, f"not valid YAML: '{'9' * 40}' is no value that can be read"),
        ("x:\n- [1, !!float high]\n", 2, "not valid YAML: 'high' is no value that can be read"),
        ("a: 1\na: 2\n", 2, 'not valid YAML: found duplicate key "a" with value "2" (original value: "1")'),
        (b"kind: tenant\nname: M\xfcller\n", 2, "not UTF-8: save the file in this encoding"),
        ("kind: tenant\nslug: a\n".encode("utf-16-le"), 1, "not UTF-8: save the file in this encoding"),
        ("a: 1\nb: x\x0by\n", 2, "not valid YAML: the character '\\x0b' is not allowed"),
        (TENANT + 'time_zone: "a\\0b"\n', 5, "not valid YAML: 'a\\x00b' is no value that can be read"),
        (TENANT + 'time_zone: "\\ud83d"\n', 5, "not valid YAML: '\\ud83d' is no value that can be read"),
        ("x: !!python/object/apply:os.system [true]\n", 1, "not valid YAML: could not determine a constructor for the "
         "tag 'tag:yaml.org,2002:python/object/apply:os.system'"),
        ("kind: tenant\nslug: &a [*a]\n", 1, "too large a document: its aliases (*name) grow without bound"),
    ],
)  # fmt: skip
def test_a_problem_names_file_line_field_and_what_is_allowed(
    tmp_path: Path, text: str | bytes, line: int, expected: str
) -> None:
    said = [line.replace(f"{tmp_path}/", "") for line in problems(tmp_path, a=text)]
    assert said == [f"a.yaml:{line}: {expected}"]


@pytest.mark.parametrize("host", ["mx", "smtp_1.internal", "Relay.Example.ORG.", "192.0.2.1", "'::1'", "'fe80::1'"])
def test_a_host_is_a_name_or_an_address(tmp_path: Path, host: str) -> None:
    transport = f"---\nkind: transport\ntenant: acme\nslug: b\ntype: smtp\nhost: {host}\n"
    assert problems(tmp_path, a=TENANT + transport) == []


def test_a_document_may_be_json_as_programs_write_it(tmp_path: Path) -> None:
    said = {"kind": "tenant", "slug": "acme", "name": "Ü 😀", "postal_address": "1/Road"}
    for terms in ({}, {"indent": "\t"}, {"ensure_ascii": False}):
        (tmp_path / "a.yaml").write_text(json.dumps(said, **terms), encoding="utf-8")  # type: ignore[arg-type]
        [one] = documents.validate(project_files.read([tmp_path])[0])[0]
        assert one.spec.model_dump(include=set(said)) == said


def test_all_problems_of_all_files_are_said_at_once(tmp_path: Path) -> None:
    said = problems(tmp_path, a=TENANT + "x: 1\ny: 2\n", b="kind: nothing\n", c="a: [", d=b"\xff")
    assert [line.partition(":")[0] for line in said] == ["c.yaml", "d.yaml", "a.yaml", "a.yaml", "b.yaml"]


HTML = 'html: <p><a href="{{ unsubscribe_url }}">no more</a> {{ postal_address }}</p>'
OWNED = """
---
kind: segment
tenant: acme
slug: all
rule: {all: [{tag: newsletter}]}
---
kind: identity
tenant: acme
slug: news
from_name: News
from_address: news@acme.example
return_path_domain: bounce.acme.example
---
kind: transport
tenant: acme
slug: relay
type: sandbox
---
kind: template
tenant: acme
slug: hello
subject: Hello
html: <p><a href="{{ unsubscribe_url }}">no more</a> {{ postal_address }}</p>
text: "{{ unsubscribe_url }} {{ postal_address }}"
---
kind: campaign
tenant: acme
slug: first
segment: all
template: hello
identity: news
transport: relay
"""


def test_documents_that_fit_together_have_no_problem(tmp_path: Path) -> None:
    assert problems(tmp_path, tenant=TENANT, owned=OWNED) == []


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("segment: all", "segment: al", "30: segment: acme has no segment 'al'; there are all"),
        ("transport: relay", "transport: x", "33: transport: acme has no transport 'x'; there are relay"),
        ("acme\nslug: relay", "amce\nslug: relay", "16: tenant: there is no tenant 'amce'; there are acme"),
        ("bounce.acme.example", "mailer.example", "13: return_path_domain: mailer.example is not aligned with the "
         "domain of from_address; allowed: acme.example or a domain below or above it, such as bounce.acme.example"),
        ("from_name: News", 'from_name: "News\u2028Letter"', "11: from_name: one line of text is allowed"),
        ("subject: Hello\n", "subject: Hello\nvariants: [{language: pt-BR, subject: A, html: B}]\n",
         "24: variants[0].language: 'pt-BR' is no language as contacts have it: two letters of ISO 639-1"),
        ("tag: newsletter", "tga: newsletter", "6: rule.all[0].tga: unknown"),
        ("no more</a> {{ postal_address }}", "no more</a>", "24: html: {{ postal_address }} is missing"),
        ("transport: relay\n", "transport: relay\nstart: 2027-01-01T00:00:00Z\nends: 2026-01-01T00:00:00Z\n",
         "35: ends: has to be later than start"),
    ],
)  # fmt: skip
def test_what_does_not_fit_together_is_a_problem(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert OWNED.count(old) == 1
    said = problems(tmp_path, a=TENANT, b=OWNED.replace(old, new))
    assert any(line.startswith(f"b.yaml:{expected}") for line in said), said


def test_a_template_is_read_from_the_file_beside_it(tmp_path: Path) -> None:
    (tmp_path / "hello.html").write_text("<p>{{ unsubscribe_url }} {{ postal_address }}</p>")
    text = OWNED.replace(
        'html: <p><a href="{{ unsubscribe_url }}">no more</a> {{ postal_address }}</p>', "html_file: hello.html"
    )
    assert problems(tmp_path, a=TENANT, b=text) == []
    declared, _ = documents.validate(project_files.read([tmp_path])[0])
    declared, _ = project_files.inline(declared)
    [spec] = [one.spec for one in declared if one.key[0] == "template"]
    assert (spec.html, spec.html_file) == ("<p>{{ unsubscribe_url }} {{ postal_address }}</p>", None)  # type: ignore[attr-defined]


def test_a_mistake_in_a_template_file_is_shown_in_that_file(tmp_path: Path) -> None:
    (tmp_path / "hello.html").write_text("<p>\n{{ unsubscribe_url }} {{ postal_address\n</p>")
    text = OWNED.replace(
        'html: <p><a href="{{ unsubscribe_url }}">no more</a> {{ postal_address }}</p>', "html_file: hello.html"
    )
    assert any(line.startswith("hello.html:") for line in problems(tmp_path, a=TENANT, b=text))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("../out.html", "../out.html has to lie beside the YAML file or below it"),
        ("missing.html", "in/missing.html is no file"),
        ("/etc/hostname", "/etc/hostname has to lie beside the YAML file or below it"),
    ],
)
def test_a_template_file_lies_beside_the_yaml_file(tmp_path: Path, name: str, expected: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out.html").write_text("x")
    text = OWNED.replace(HTML, f"html_file: {name}")
    [said] = problems(tmp_path / "in", a=TENANT, b=text)
    assert said.replace(f"{tmp_path}/", "") == f"b.yaml:24: html_file: {expected}"


def test_aliases_that_grow_without_bound_are_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    assert "grow without bound" in problems(tmp_path, a="\n".join(lines))[0]


def test_files_are_found_in_folders_below_and_hidden_ones_are_left_out(tmp_path: Path) -> None:
    for place in ("deep/er", ".mailmill", "deep/.git"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "x.yml").write_text(TENANT.replace("acme", "t" + str(len(place))))
    found, none = project_files.read([tmp_path, tmp_path / "deep" / "er" / "x.yml"])
    assert [document.file for document in found] == [str(tmp_path / "deep/er/x.yml")] and none == []
