"""What a template may do, what it needs, and what is refused before the first mail."""

from __future__ import annotations

import re
from html import unescape

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import UndefinedError

from mailmill.errors import Misconfigured
from mailmill.pipelines.send.links import tracked_html
from mailmill.pipelines.target import inserts, variants
from mailmill.pipelines.target.anchors import anchors
from mailmill.pipelines.target.plain import plain_text
from mailmill.pipelines.target.templates import MAX_CHARACTERS, check, checked_anchors, compile

FOOT = "{{ unsubscribe_url }} {{ postal_address }}"


def facts(html: str = "", *, subject: str = "Hello", text: str = ""):
    return check(subject, html + FOOT, text + FOOT)


@pytest.mark.parametrize(
    ("source", "bare"),
    [
        ("{{ name }}", {("name",)}),
        ("{{ name | upper }}", {("name",)}),
        ("{{ name | default('you') }}", set()),
        ("{{ name | d('you') | title }}", set()),
        ("{{ name | upper | default('you') }}", {("name",)}),  # upper comes first and has nothing to work on
        ("{{ name or 'you' }}", set()),
        ("{{ name or company }}", {("name", "company")}),
        ("{{ name or company or country }}", {("name", "company", "country")}),
        ("{{ name or company or 'you' }}", set()),
        ("{{ name or company | upper }}", {("name", "company")}),
        ("{{ name | upper or company }}", {("name",), ("company",)}),
        ("{{ name if name else 'you' }}", set()),
        ("{{ name if company }}", {("name",)}),
        ("{% if name %}{{ name }}{% endif %}", set()),
        ("{% if name %}x{% else %}{{ name }}{% endif %}", {("name",)}),
        ("{% if not name %}you{% else %}{{ name }}{% endif %}", set()),
        ("{% if name is defined %}{{ name }}{% endif %}", set()),
        ("{% if name and company %}{{ name }} {{ company }}{% endif %}", set()),
        ("{% if name or company %}{{ name }}{% endif %}", {("name",)}),
        ("{% if name or company %}{{ name or company }}{% endif %}", set()),
        ("{% if country == 'DE' %}{{ country }}{% else %}x{% endif %}", set()),
        ("{% if country in ['DE', 'AT'] %}{{ country }}{% endif %}", set()),
        ("{% if country != 'DE' %}{{ country }}{% endif %}", {("country",)}),
        ("{% if not name %}a{% elif company %}{{ name }} {{ company }}{% endif %}", set()),
        ("{% set first = name | default('you') %}{{ first }}", set()),
        ("{% set first = name %}{{ first }}", {("name",)}),
        ("{{ name | default(company) }}", {("name", "company")}),
        ("{{ name.split(' ')[0] }}", {("name",)}),
        ("{% for item in name.split(' ') %}{{ item }}{{ loop.index }}{% endfor %}", {("name",)}),
        ("{% if name %}{% for item in name.split(' ') %}{{ item }}{% endfor %}{% endif %}", set()),
        ("{% for name in company.split(' ') %}{{ name }}{% endfor %}", {("company",)}),
        ("{% for item in 'a b'.split(' ') %}{{ item }}{{ name }}{% endfor %}", {("name",)}),
    ],
)
def test_a_field_is_bare_where_its_absence_would_be_an_error(source, bare):
    found = facts(source)
    assert found.bare == bare
    template = compile("html", source)
    values = dict.fromkeys(found.merge_fields, "x")
    for name in set(values) - {name for group in bare for name in group}:
        # what is not bare may be missing, alone or with the others
        template.render({key: value for key, value in values.items() if key != name})
    template.render({group[-1]: "x" for group in bare})
    for group in bare:
        without = ({}, {key: "x" for key in values if key not in group})
        assert any(_breaks(source, given) for given in without)


def _breaks(source, values) -> bool:
    try:
        compile("html", source).render(values)
    except UndefinedError:
        return True
    return False


def test_fields_come_in_the_order_they_first_appear():
    found = check("For {{ company }}", "{{ name }} {{ company }}" + FOOT, "{{ country }}" + FOOT)
    assert found.merge_fields == ("company", "name", "country")


def test_a_field_has_the_part_and_line_in_which_it_stands_first():
    found = check("For {{ company }}", "\n\n{{ name }} {{ company }}" + FOOT, "\n{{ country }}\n{{ country }}" + FOOT)
    wanted = {"company": "subject:1", "name": "html:3", "country": "text:2"}
    assert {name: found.places[name] for name in wanted} == wanted


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ name.__init__.__globals__ }}",
        "{{ name['__class__'] }}",
        "{{ name | attr('__class__') }}",
        "{{ name.format(1) }}",
        "{{ '{0.__class__}'.format(name) }}",
        "{{ cycler.__init__ }}",
        "{{ lipsum() }}",
        "{{ self._TemplateReference__context }}",
        "{{ range(1000000000) }}",
        "{% for i in name %}{% for j in name %}{% endfor %}{% endfor %}",
        "{% for i in name %}{% if i %}{% for j in name %}{% endfor %}{% endif %}{% endfor %}",
        "{% for i in name recursive %}{{ loop(i) }}{% endfor %}",
        "{% for i, j in name %}{% endfor %}",
        "{% for i in name %}{{ loop.cycle('a') }}{% endfor %}",
        "{{ 'x' * 1000000000 }}",
        "{{ 9 ** 9 ** 9 }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ name | center(1000000000) }}",
        "{{ name | replace('', 'xxxx') }}",
        "{{ name | safe }}",
        "{{ name | tojson }}",
        "{% autoescape false %}{{ name }}{% endautoescape %}",
        "{% macro a() %}{{ a() }}{% endmacro %}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
        "{% extends 'x' %}",
        "{% set a = name ~ name %}{% set b = a ~ a %}{{ b }}",
        "{% set a.b = 1 %}",
        "{{ " + "(" * 400 + "1" + ")" * 400 + " }}",
    ],
    ids=lambda source: source[:40],
)
def test_F42_what_reaches_out_of_the_sandbox_or_grows_is_refused(source):
    with pytest.raises(Misconfigured):
        facts(source)


def test_F42_a_loop_ends_and_a_long_text_is_an_error():
    from mailmill.pipelines.target.templates import MAX_RENDERED, MAX_TURNS, render

    looped = compile("text", "{% for i in name %}{{ name }}{% endfor %}")
    assert render(compile("text", "{% for i in name %}x{% endfor %}"), {"name": "y" * 5000}) == "x" * MAX_TURNS
    with pytest.raises(ValueError, match="characters"):
        render(looped, {"name": "y" * (MAX_RENDERED // MAX_TURNS + 1)})


def test_F42_html_in_a_value_is_escaped_in_html_and_kept_in_text():
    name = {"name": "<script>&"}
    assert compile("html", "{{ name }}").render(name) == "&lt;script&gt;&amp;"
    assert compile("text", "{{ name }}").render(name) == "<script>&"
    assert compile("html", "{{ name | upper | trim }}").render(name) == "&lt;SCRIPT&gt;&amp;"


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=30))
def test_F42_no_value_breaks_out_of_its_place(value):
    shown = compile("html", "<p>{{ name | default('x') }}</p>").render({"name": value} if value else {})
    assert shown.count("<") == 2 and shown.count(">") == 2


@pytest.mark.parametrize("source", ["images/a.png", "/a.png", "//cdn.example/a.png", "cid:logo", "file:///C:/a.png"])
def test_a_picture_that_no_mail_program_can_find_is_refused(source):
    """As pages saved from a browser or a word processor have them: they lie beside the file."""
    with pytest.raises(Misconfigured, match=f"html:2: the picture '{source}' has no address"):
        facts(f"\n<p title='<img src=x>'><IMG alt=a src='{source}'>")
    fine = [
        "https://a.example/{{ name }}.png?a&b",
        "{{ name }}",
        "data:image/png;base64,AA==",
        "{% if name %}a{% endif %}",
    ]
    facts("".join(f'<img src="{one}">' for one in fine) + "<!-- <img src='a.png'> --><img data-src='a'>")
    with pytest.raises(Misconfigured, match="html:1: the picture"):
        facts("<!--[if mso]><img src='a.png'><![endif]-->")


@pytest.mark.parametrize(
    "tag", ["<td\nwidth={{ name }}>", "<p title='x' {{ name }}>", "<a href=https://a.example/{{ name }}"]
)
def test_F42_a_value_in_a_tag_stands_in_quotes(tag):
    """Or `x style=…`, as somebody's name, would be an attribute of its own; spaces are not escaped."""
    with pytest.raises(Misconfigured, match="html:2: a tag prints a value without quotes"):
        facts("\n" + tag + ">")
    fine = "<!-- <p {{ name }}> --><p {% if name %}class='{{ name }}'{% endif %} id=\"{{ name }}\">a < {{ name }} ></p>"
    facts(fine + "<a href={{ unsubscribe_url }}>x</a>")


@pytest.mark.parametrize(
    ("part", "problem"),
    [
        ({"html": "a\n{% if %}"}, "html:2"),
        ({"text": "{{ name"}, "text:1"),
        (
            {"html": "<style>\n@media all{#a{color:red}}</style>"},
            "html:2: Missing end of comment tag (`{#` begins one;",
        ),
        ({"subject": "{{ name | nope }}"}, "subject:1"),
        ({"html": "\n\n{{ name | nope }}"}, "html:3: the filter nope is not allowed"),
        ({"subject": "x" * 999}, "subject: has 999 characters, 998 are allowed"),
        ({"html": "x" * MAX_CHARACTERS}, "html: has 500,"),
        ({"subject": "a\nb"}, "subject: line breaks"),
        ({"subject": " "}, "subject: is empty"),
        ({"subject": "{% if name %}{{ name }}{% endif %}"}, "subject: is empty when its merge fields are"),
        ({"subject": r"Hi {{ name | default('a\nb') }}"}, "subject: holds a text with a line break"),
        (
            {"subject": r"Hi {% if country == 'DE' %}{{ 'a\x85' }}{% endif %}"},
            "subject: holds a text with a line break",
        ),
        ({"subject": r"{{ name.strip('\n') ~ (name or 'a\n') }}"}, "subject: holds a text with a line break"),
        ({"subject": r"{{ 'a\nb'.strip('x') }}"}, "subject: holds a text with a line break"),
        ({"subject": "a\u2028b"}, "subject: line breaks"),
        ({"html": "\n{%- raw %}<a href='https://q.example/'>{% endraw -%}"}, "html:2: {% raw %} is not allowed"),
        ({"text": "{% raw %}{{ name }}{% endraw %}"}, "text:1: {% raw %} is not allowed"),
        ({"subject": "{{ unsubscribe_url }}"}, "subject:1: unsubscribe_url and postal_address do not belong"),
    ],
    ids=str,
)
def test_a_mistake_is_named_with_part_and_line(part, problem):
    with pytest.raises(Misconfigured) as caught:
        facts(**part)
    assert str(caught.value).startswith(problem)


def test_a_comment_that_opens_at_the_very_end_is_a_mistake_too():
    """Jinja2 takes it for text there, and not once the pixel stands behind it."""
    with pytest.raises(Misconfigured, match="html:2: Missing end of comment tag"):
        check("s", FOOT + "\n{#", FOOT)


@pytest.mark.parametrize("part", ["html", "text"])
@pytest.mark.parametrize("name", ["unsubscribe_url", "postal_address"])
@pytest.mark.parametrize("hidden", ["", "{{% if name %}}{{{{ {} }}}}{{% endif %}}", "{{# {{{{ {} }}}} #}}"])
def test_both_parts_have_to_show_how_to_unsubscribe_and_who_sends(part, name, hidden):
    parts = {"html": FOOT, "text": FOOT}
    parts[part] = FOOT.replace(f"{{{{ {name} }}}}", hidden.format(name))
    with pytest.raises(Misconfigured) as caught:
        check("s", **parts)
    assert caught.value.place == part
    assert name in str(caught.value)


@pytest.mark.parametrize(
    "source",
    [
        "{{ unsubscribe_url | truncate(30) }}", "{{ unsubscribe_url | upper }}", "{{ unsubscribe_url | urlencode }}",
        "{{ unsubscribe_url|e|lower }}", "{{ (name ~ unsubscribe_url) | title }}", "{{ unsubscribe_url|trim('h') }}",
        "{{ unsubscribe_url.upper() }}", "{{ unsubscribe_url[:40] }}", "{% if a %}{{ unsubscribe_url[0] }}{% endif %}",
        "{{ name | default(unsubscribe_url) | first }}", "{% set link = unsubscribe_url %}{{ link | striptags }}",
        "{% for one in unsubscribe_url %}{{ one }}{% endfor %}", "{{ unsubscribe_url.split('/')[0] }}",
    ],
)  # fmt: skip
@pytest.mark.parametrize("part", ["html", "text"])
def test_the_unsubscribe_link_is_never_made_another_one(source, part):
    """Its end, which is each recipient's own, is put in after Jinja2."""
    with pytest.raises(Misconfigured, match=f"{part}:2: .* would make another link of unsubscribe_url"):
        facts(**{part: "\n" + source})


def test_the_unsubscribe_link_and_the_address_may_be_written_as_they_need_it():
    link = "{% set link = unsubscribe_url %}<a href='{{ unsubscribe_url|e }}'>a</a>{{ link | string }}"
    check(
        "s",
        link + FOOT,
        "{{ name | default(unsubscribe_url) }} {{ unsubscribe_url | e }} {{ postal_address | trim | upper }}",
    )


@pytest.mark.parametrize(
    "subject",
    [
        r"""{{ name.split("\n")[0] }}""", r"""{{ name.strip("\n ") }}""", r"""Hi {{ name if name != "\n" }}""",
        r"""{% if "\n" in name %}Hello{% else %}Hello {{ name }}{% endif %}""", r"""Hi {{ name is eq("\n") }}""",
    ],
)  # fmt: skip
def test_a_subject_may_look_for_the_line_break_that_it_must_not_print(subject):
    assert check(subject, FOOT, FOOT).merge_fields == ("name",)


@pytest.mark.parametrize(
    "printed",
    [
        "unsubscribe_url | default('#')", "unsubscribe_url | string", "unsubscribe_url|d( '(' , true )|forceescape",
        'unsubscribe_url | default("#") | e',
    ],
)  # fmt: skip
def test_a_link_takes_the_filters_that_keep_the_unsubscribe_link(printed):
    html = f"<a href='{{{{ {printed} }}}}'>a</a>{FOOT}".replace("href='", 'href="').replace("}}'", '}}"')
    assert check("s", html, FOOT).links == ()
    values = {"unsubscribe_url": "https://u.example/", "postal_address": "1 Quay"}
    assert compile("html", html).render(values).startswith('<a href="https://u.example/">')


@pytest.mark.parametrize("cut", ["first", "truncate(30)", "length", "striptags", "urlencode | first"])
def test_an_address_that_is_cut_is_not_shown(cut):
    with pytest.raises(Misconfigured, match="postal_address }} is missing"):
        check("s", FOOT, "{{ unsubscribe_url }} {{ postal_address | " + cut + " }}")


def test_a_html_comment_shows_nothing():
    with pytest.raises(Misconfigured, match="postal_address"):
        check("s", "{{ unsubscribe_url }}<!-- {{ postal_address }} -->", FOOT)


@pytest.mark.parametrize(
    "href",
    [
        "javascript:alert(1)", "JaVaScRiPt:x", "data:text/html,x", "//evil.example/", "/relative", "telnet:a",
        "{{ url }}", "https://{{ host }}/", "https://a.example@evil.example/", "https://a.example/ b", "https://",
        "https://a.example/\\b", "http://[", "java&#115;cript:x", "ftp://a.example/", "{{ unsubscribe_url }}.evil",
        "{{ unsubscribe_url | default('#') ~ '.evil' }}", "https://\u200b/", "https://a.example/\u2028b",
    ],
)  # fmt: skip
def test_F47_a_link_that_is_not_http_or_whose_host_is_not_ours_to_choose_is_refused(href):
    with pytest.raises(Misconfigured, match="the link"):
        facts(f'<a class="x" href="{href}">x</a>')


def test_links_are_found_once_each_in_their_order_without_the_recipients_own():
    html = """<A HREF='https://b.example/x?a=1&amp;b=2'>x</A><a href=https://a.example/>y</a>
    <!-- <a href="https://hidden.example/"> --><a name="top">no link</a><area href="https://area.example/">
    <a title="a > b" href="https://b.example/x?a=1&b=2">again</a><a href="https://a.example/?e={{ email|e }}">e</a>
    <a href="{{ unsubscribe_url }}">u</a>"""
    assert facts(html).links == ("https://b.example/x?a=1&b=2", "https://a.example/", "https://area.example/")


BUTTON = """<!--[if mso]><v:roundrect xmlns:v="urn:schemas-microsoft-com:vml" arcsize="8%"
 href="https://a.example/?a=1&amp;b=2"><center>Buy</center></v:roundrect><a href='https://o.example/'>o</a><![endif]-->
<!--[if !mso]><!--><a href="https://a.example/?a=1&b=2">Buy</a><!--<![endif]-->"""


@pytest.mark.parametrize("style", ["", "<style>a{color:red}</style>"])
def test_links_that_only_outlook_shows_are_counted_too(style):
    """It reads conditional comments, and buttons of VML in them."""
    html, _, found = variants.checked("Hi", style + BUTTON + "<!-- <a href='https://no.example/'> -->" + FOOT, None)
    assert found.links == ("https://a.example/?a=1&b=2", "https://o.example/")
    sent = tracked_html(html, found.links)
    assert sent.count('="{{ _token_2 }}"') == 2 and "='{{ _token_3 }}'" in sent and sent.count("https://") == 1
    for wrong in ("<v:rect href='ftp://a.example'>", "<v:rect href={{ name }}>", "<v:rect href='https://a.example>"):
        with pytest.raises(Misconfigured, match="html:2"):
            facts(f"\n<!--[if mso]>{wrong}<![endif]-->")


@pytest.mark.parametrize(
    ("written", "url"),
    [
        ("?id=7&region=eu&section=3&currency=EUR&copy=1", "?id=7&region=eu&section=3&currency=EUR&copy=1"),
        ("?a=1&amp;b=2&amp=3&ampx&lt;&notit;&#38;c&#x26;d&#38e", "?a=1&b=2&amp=3&ampx<&notit;&c&d&e"),
        ("?a&copy&reg/&para", "?a©®/¶"),  # what HTML itself resolves, a browser does too
    ],
)
@pytest.mark.parametrize("style", ["", "<style>p{color:red}</style>"])
def test_a_bare_ampersand_leads_where_a_browser_would_go(written, url, style):
    """Also in the text part, where the address is a recipient's own, and once CSS was put into the elements."""
    link = "<a href='https://a.example/{}" + written + "'>x</a>"
    html = style + "<p>" + link.format("") + link.format("{{ name }}") + "</p>" + FOOT
    _, text, facts = variants.checked("Hi", html, None)
    assert facts.links == (f"https://a.example/{url}",)
    assert f"x: https://a.example/{url} x: https://a.example/{{{{ name }}}}{url}\n" in text


@pytest.mark.parametrize("icon", ["&#xF0004;", "\U000f0000", "&#983041;", "\U00040000", "&#x40001;", "<!--mm0-->"])
def test_no_character_of_a_template_is_taken_for_a_merge_field(icon):
    """Not where its text is derived, nor where its CSS is put into the elements."""
    html = "<style>p{color:red}</style><p>" + icon + "|</p><!--{{ name }}-->{% if name %}{{ name }}{% endif %}" + FOOT
    sent, text, _ = variants.checked("Hi", html, None)
    character = "" if icon.startswith("<") else unescape(icon)
    assert text == f"{character}|\n\n{{% if name %}}{{{{ name }}}}{{% endif %}}{FOOT}\n"
    assert (character or icon) + "|</p><!--{{ name }}-->{% if name %}{{ name }}{% endif %}" + FOOT in sent


def test_an_icon_is_no_unsubscribe_link():
    html = "<!-- {{ postal_address }} {{ unsubscribe_url }} --><p>&#xF0000;&#xF0001;&#x40000;&#x40001;</p>"
    with pytest.raises(Misconfigured, match="is missing"):
        check("s", html, FOOT)


@pytest.mark.parametrize("href", ["mailto:a@b.example?subject=x", "tel:+1-202-555-0100", "SMS:+12025550100", "#top"])
def test_a_link_that_leads_to_no_web_page_is_left_as_it_stands(href):
    assert facts(f'<a href="{href}">x</a><a href="https://a.example/">y</a>').links == ("https://a.example/",)


@pytest.mark.parametrize(
    ("tag", "urls"),
    [
        ("""<a title="href=evil" href="https://ok.example">""", ["https://ok.example"]),
        ("""<a title=" href='https://ok.example/'" href="javascript:alert(1)">""", ["javascript:alert(1)"]),
        ("""<a data-href="x" xhref='y' href=https://ok.example/z>""", ["https://ok.example/z"]),
        ("""<a {% if vip %}href="https://a.example"{% else %}href="ftp://b.example"{% endif %}>""",
         ["https://a.example", "ftp://b.example"]),
    ],
)  # fmt: skip
def test_the_address_of_a_link_is_its_own_attribute_not_what_another_says(tag, urls):
    assert [one.url for one in anchors(tag)] == urls


def test_an_anchor_knows_its_place_in_the_source():
    html = 'x {{ \'<a href="https://no.example/">\' }}\n<a  href = "https://a.example/?x={{ name }}" >'
    (found,) = anchors(html)
    assert html[found.start : found.end] == "https://a.example/?x={{ name }}"
    assert (found.line, found.dynamic, found.problem) == (2, True, None)


@pytest.mark.parametrize("unit", ["<!--", "<a ", "<a x='", "{{ ", "{% {{", "<pre> \t", " \n"])
def test_a_part_of_every_length_is_read_in_one_pass(unit):
    """What opens again and again and never closes is not looked for from each of its places: that took minutes."""
    source = unit * (MAX_CHARACTERS // len(unit))
    assert all(one.problem for one in anchors(source))
    if not unit.startswith("<"):  # the standard library reads those
        assert plain_text(f"<pre>{source}x</pre>").rstrip().endswith("x")


@pytest.mark.parametrize(
    "html", ["<a href='https://x.example/>x</a>", '<p><a href="https://x.example/"', "<a b=it's>x</a>"]
)
def test_a_link_whose_tag_does_not_end_is_refused(html):
    with pytest.raises(Misconfigured, match="is not closed"):
        checked_anchors(html)


@given(st.text(st.sampled_from("{}%# a'\n"), max_size=60))
def test_jinja_is_found_as_a_search_from_each_place_finds_it(source):
    searched = re.compile(r"(\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\})", re.DOTALL)
    assert inserts.split(source) == searched.split(source)
