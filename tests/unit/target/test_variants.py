"""Contents: text made of HTML, CSS put into the elements, and who gets which variant."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailmill.errors import Misconfigured
from mailmill.pipelines.target import variants
from mailmill.pipelines.target.plain import plain_text
from mailmill.pipelines.target.styles import inlined
from mailmill.pipelines.target.templates import compile

FOOT = '<p>{{ postal_address }} <a href="{{ unsubscribe_url }}">leave</a></p>'
STYLED = (
    "<!doctype html><html><head><style>p.a{color:red} @media (max-width:9em){p{color:green}}</style></head><body>"
    '<table>{% for item in items.split(";") %}<tr><td class="x">{{ item | default("é \\" < &") }}</td></tr>{% endfor %}'
    '</table><p class="a">{{ name or "you" }}</p><a href="https://a.example/?x=1&amp;y=2">a</a>'
    + FOOT
    + "</body></html>"
)


def template(**changed: object) -> dict[str, object]:
    return {"subject": "Hi", "html": FOOT, "text": None, "variants": [], **changed}


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<p>One</p><p>Two</p>", "One\n\nTwo\n"),
        ("<div>One</div><div>Two<br>Three</div>", "One\nTwo\nThree\n"),
        ("<ul><li>a</li><li>b <b>c</b></li></ul>", "- a\n- b c\n"),
        ("<a href='https://a.example/?x&amp;y'>see  this</a>.", "see this: https://a.example/?x&y .\n"),
        ("<a href='https://a.example'>https://a.example</a>", "https://a.example\n"),
        ("<a href='https://a.example'><img src=x alt='A picture'></a>", "A picture: https://a.example\n"),
        ("<head><title>t</title><style>p{}</style></head><p>shown</p><script>no</script>", "shown\n"),
        ("<p style='display: none'>no <b>nor</b></p><p hidden>no</p><!-- no -->yes", "yes\n"),
        ("<table><tr><td>a</td><td>b</td></tr><tr><td>c</td></tr></table>", "a b\nc\n"),
        ("<p>Fish &amp; {{ chips | default('<x>') }}</p>", "Fish & {{ chips | default('<x>') }}\n"),
        ("{% if name %}<p>Hi {{ name }}</p>{% endif %}", "{% if name %}\n\nHi {{ name }}\n\n{% endif %}\n"),
        ("<p>&#123;&#123; name }}</p>", "{ { name }}\n"),
        ("<a href='MAILTO:help%2Bus@a.example?subject=Hi'>Write</a>.", "Write: help+us@a.example .\n"),
        ("<a href='mailto:h@a.example'>h@a.example</a> <a href='tel:+43-1'>Call</a>", "h@a.example Call: +43-1\n"),
        ("<a href='#top'>up</a><a href='mailto:?subject=x'>tell</a>", "up tell\n"),
        ("<a href='https://a.example/'>https://a.example/b</a>", "https://a.example/b: https://a.example/\n"),
        ("<a href='https://a.example'><p>A button</p></a>", "A button\n\nhttps://a.example\n"),
        ("yes<!-- no", "yes\n"),
        ("yes<p title='no", "yes\n"),
        ("1 < 2 &amp; 3 <", "1 < 2 & 3 <\n"),
        ("<p hidden>no<p>nor</p></p><div>yes</div></b>", "yes\n"),
        ("<div><p hidden>no</div>yes", "yes\n"),
        (
            "<a href='https://a.example'>a<i hidden></a><a href='https://b.example'>b</a>",
            "a: https://a.example b: https://b.example\n",
        ),
        ("<td style='font-size:0px'>no<div style='font-size: 13px'>yes</div>no</td>", "yes\n"),
        (
            "<td style='FONT-SIZE:.0em'>no<b style='font-size:120%'>no<i style='font-size:1rem'>yes</i></b></td>",
            "yes\n",
        ),
        ("<td style='font-size:0'>no<b style='font-size:larger'>no</b><b style='font-size:1.5EX'>no</b></td>", "\n"),
        ("<p style='font-size:0'><a href='https://a.example'><img src=x></a>", "https://a.example\n"),
        (
            "<td style='font-size:0'>no<b style='font:bold 14px/20px Arial'>yes<i style='font:0/0 a'>no</i></b>"
            "<b style='font:inherit'>no</b><b style='FONT: 700 1.2rem a'> and yes</b><b style='font:700 0% a'>no</b>",
            "yes and yes\n",
        ),
        ("one <a href='https://a.example'> <b hidden>no</b></a><a href='https://b.example'></a>two", "one two\n"),
        ("<p style='font-size:0.5em;mso-ansi-font-size:0'>yes</p>", "yes\n"),
        (  # a link that begins in each branch of a condition leads each reader where theirs does
            "{% if a %}<a href='https://a.example/'>{% elif b %}<a href='https://b.example/'>{% else %}"
            "<a href='https://c.example/'>{% endif %}go</a>",
            "{% if a %}{% elif b %}{% else %}{% endif %}go: {% if a %}https://a.example/{% elif b %}https://b.example/"
            "{% else %}https://c.example/{% endif %}\n",
        ),
        (
            "{% if a %}<a href='https://a.example/'>{% else %}</a><a href='https://b.example/'>{% endif %}go</a>",
            "{% if a %}{% else %}{% endif %}go: {% if a %}https://a.example/{% else %}https://b.example/{% endif %}\n",
        ),
        (
            "<a href='https://a.example/'>{% if a %}{{ a }}{% endif %}</a>",
            "{% if a %}{{ a }}{% endif %}: https://a.example/\n",
        ),
        ("<a href='#x'><a name=y>{{ n }}<a href='https://a.example/'>go</a>", "{{ n }}go: https://a.example/\n"),
    ],
)
def test_the_text_of_html_is_what_a_reader_sees(html, text):
    assert plain_text(html) == text


PIECES = [*"<>ab/\"' =&;!-{}%#\n", "<p>", "</p>", "<a href=x>", "</a>", "<b hidden>", "</b>", "{{ n }}"]


@given(st.lists(st.sampled_from(PIECES), max_size=40))
def test_any_html_gives_a_text(html):
    assert plain_text("".join(html)).endswith("\n")


def test_css_goes_into_the_elements_and_jinja_stays_where_it_was():
    done = inlined(STYLED)
    assert '<p class="a" style="color: red;">' in done and "@media" in done
    values = {"items": "a;b", "unsubscribe_url": "https://u.example/", "postal_address": "1 Quay"}
    shown = compile("html", done).render(values)
    assert shown.count("<tr>") == 2 and shown.index("<td") < shown.index("</table>") and ">you</p>" in shown
    _, text, facts = variants.checked("Hi", STYLED, None)
    assert facts.links == ("https://a.example/?x=1&y=2",) and "{{ unsubscribe_url }}" in text


@pytest.mark.parametrize(
    "kept",
    [
        "a:hover{color:green!important}",
        "#outlook a{padding:0}", "@media (max-width:9em){p{color:green}}",
        "</style><style media='print'>p{display:none}", "</style><style MEDIA='screen and (width>9em)'>p{margin:0}",
        "</style><link rel='stylesheet' href='https://f.example/?a=1&amp;b=2'><style>",
        "</style><!--[if mso]><style>p{margin:1px}</style><a href='https://no.example/'>x</a><![endif]--><style>",
        "</style><title>{% if vip %}A &amp; {{ name }}{% endif %}</title><style>",
        "</style></head><body><![if !mso]><i>{{ name }}</i><![endif]>{# not {% said #}<style>",
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "kind", ["", ' PUBLIC "-//W3C//DTD XHTML 1.0 Strict//EN" "http://www.w3.org/TR/xhtml1/DTD/xhtml1-strict.dtd"']
)
def test_what_elements_cannot_hold_stays_as_it_was_written(kept, kind):
    """Outlook's comments, what is for some media, and what a program's own elements match; and how all is laid out."""
    done = inlined(f"<!DOCTYPE html{kind}><html><head><style>p{{color:red}}{kept}</style></head><p>x</p></html>")
    assert done.startswith(f"<!DOCTYPE html{kind}>") and '<p style="color: red;">x</p>' in done
    assert kept.replace("'", '"') in done.replace("'", '"')


def test_a_condition_before_all_else_stays_round_what_it_is_about():
    """A parser would put its beginning into the head that it makes, and its end into the body."""
    html = "{% if vip %}<div class='gold'>{% else %}<div>{% endif %}<p>x</p></div>" + FOOT
    sent, _, _ = variants.checked(
        "Hi", "<style>p{color:red}</style><style media=print>p{margin:0}</style>" + html, None
    )
    assert "</head><body>{% if vip %}<div class" in sent and sent.index("print") < sent.index("</head>")
    sent, _, _ = variants.checked("Hi", "{% set a = 1 %}{# b #}<style>p{color:red}</style><p>x</p>" + FOOT, None)
    assert sent.index("{% set a = 1 %}") < sent.index("<style>") < sent.index("</head>"), "Gmail reads no other"
    sent, _, _ = variants.checked(
        "Hi", "{% set a = 1 %}<!DOCTYPE html PUBLIC 'x'><style>p{color:red}</style>" + FOOT, None
    )
    assert sent.index("{% set a = 1 %}") < sent.index("<!DOCTYPE html PUBLIC 'x'>") < sent.index("<html>")


def test_jinja_between_attributes_is_refused_where_css_would_move_them():
    tag = "\n<p {% if vip %}class='gold'{% endif %}>x</p>"
    assert inlined(tag) == tag
    with pytest.raises(Misconfigured, match=r"^html:2: Jinja2 stands between the attributes"):
        inlined("<style>p{color:red}</style>" + tag)
    fine = "<p class='{% if vip %}gold{% endif %}' id={{ x }}><!-- a {{ b }} -->"
    assert '<p class="{% if vip %}gold{% endif %}" id="{{ x }}"' in inlined("<style>p{color:red}</style>" + fine)


@pytest.mark.parametrize(
    "for_some",
    [
        "{% if vip %}<style>p{color:gold}</style>{% endif %}",
        "{%- if vip -%}{% if a < b %}{{ a }}{% endif %}<!-- {% if c %} --><!-- {% endif %} -->"
        "<style>p{color:gold}</style>"
        "{% else %}<style>p{color:gray}</style>{% endif %}",
        '{% for item in b.split() %}<i class="{% if item %}x{% endif %}"></i><style>p{color:gold}</style>{% endfor %}',
        "<!--[if !mso]><!--><style>p{color:gold}</style><!--<![endif]-->",
        "<!--[if mso]><style>p{color:{{ colour }}}</style><![endif]-->",
        "<!-- [if gt mso 9]><!-- --><style>p{color:gold}</style><!-- <![endif]-->",
        "<![if !mso]><style>p{color:gold}</style><![endif]>",
    ],
)
def test_a_style_within_a_condition_is_for_whom_it_is(for_some):
    for html in (
        f"<style>p{{color:red}}</style>{for_some}<p>x</p>",
        f"{for_some}<style>p{{color:red}}</style><p>x</p>",
    ):
        done = inlined(html)
        assert for_some in done and '<p style="color: red;">x</p>' in done


@pytest.mark.parametrize(
    "rule",
    ["tr:nth-child(odd){color:red}", "tr:LAST-child,i{color:red}", "tr:not(:nth-child(2)):first-of-type{color:red}"],
)
def test_a_rule_that_counts_elements_is_left_to_the_style_where_a_loop_makes_them(rule):
    """The one row of the source would be the first, the last and an odd one: all rows would be."""
    rows, style = "<tr><td>x</td></tr>", f"<style>{rule}td{{margin:0}}</style>"
    done = inlined(f"{style}<table>{{% for a in b.split() %}}{rows}{{% endfor %}}</table><i>y</i>")
    assert style in done and '<tr><td style="margin: 0;">' in done
    assert ('<i style="color: red;">' in done) == (",i" in rule), "it is about others too"
    assert '<tr style="color: red;">' in inlined(f"{style}<table>{rows}</table>{{{{ b }}}}"), "nothing else makes rows"


def test_an_element_that_jinja_styles_is_left_to_the_style_which_knows_what_comes_first():
    """What stands in an element wins over all that a <style> says of it: gold would stay blue."""
    css = "<style>.b{color:blue}.gold{color:gold}td{margin:0}</style>"
    own = ["class=\"b {% if vip %}gold{% endif %}\"", "class=\"b\" id=\"{{ name }}\"",
           "class=\"b\" style=\"{% if vip %}color:gold;{% endif %}\"", "class=\"b\" style=\"{{ css }}\""]  # fmt: skip
    for one in own:
        done = inlined(f"{css}<table><td {one}>x</td><td class='b' title='{{{{ a | default(\"a > b\") }}}}'>")
        assert f"<td {one}>x</td>" in done and "data-" not in done
        assert '<td class="b" title="{{ a | default("a > b") }}" style="margin: 0;color: blue;">' in done
    done = inlined(f"{css}<p class='b' style='{{% if vip %}}color:gold;{{% endif %}}width:{{{{ w }}}}px'>x</p>")
    assert 'style="color: blue;{% if vip %}color: gold;{% endif %}width: {{ w }}px"' in done


def test_the_text_shows_nothing_that_a_style_hides():
    """A preview line, say, or what is for telephones only and stands twice."""
    css = "<style>.no{display:none}@media (max-width:9em){.no{display:block !important}}</style>"
    _, text, _ = variants.checked("Hi", f"{css}<p class='no'>{{{{ name }}}}</p>yes" + FOOT, None)
    assert text.startswith("yes\n") and "name" not in text


@pytest.mark.parametrize(
    "html",
    [
        "<p>no styles</p>", "<style>p{color:{{ colour }}}</style><p>x</p>",
        "<!--[if mso]><style>p{color:red}</style><![endif]--><p {% if vip %}class=gold{% endif %}>x",
        "<style>p{color:red}</style><style>p{color:{{ colour }}}</style><p {{ name }}>x",
        "<style media=print>p{color:red}</style>{% if vip %}<style>p{color:gold}</style>{% endif %}<p {{ name }}>x",
    ],
)  # fmt: skip
def test_html_without_styles_of_its_own_stays_as_it_is(html):
    assert inlined(html) == html


def test_inlining_reads_no_file_and_no_address():
    done = inlined('<link rel="stylesheet" href="file:///etc/hostname"><style>p{color:red}</style><p>x</p>')
    assert 'style="color: red;"' in done


@pytest.mark.parametrize(
    "hidden",
    [
        "<!-- {} -->",
        "<!-- {}",
        "<div style='display:none'>{}</div>",
        "<title>{}</title>",
        "<p hidden>{}</p>",
        "<img alt='' title='{}'>",
        "<td style='font-size:0px'>{}<p style='font-size:1px'>x</p></td>",
        "<div style='font-size:0'><a href='{}'>leave</a></div>",
        "<a style='font-size:0' href='{}'>leave</a>",
        "<a href='{}'><span style='font-size:0'>leave</span></a>",
        "<a href='{}'> </a>",
    ],
)
def test_M6_a_hidden_unsubscribe_link_is_none(hidden):
    with pytest.raises(Misconfigured, match="hidden element"):
        variants.checked("Hi", "{{ postal_address }}" + hidden.format("{{ unsubscribe_url }}"), FOOT)


def contents(**shares: int) -> variants.Contents:
    german, press = {"language": "de", "category": None}, {"language": None, "category": "press"}
    some = [{**template(subject=name), **who} for name, who in (("de", german), ("press", press))]
    applied = {slug: template(variants=some if slug == "a" else []) for slug in shares}
    return variants.given(shares, applied, "acme")


def chosen(found: variants.Contents, campaign: int, people: pl.DataFrame) -> list[str]:
    numbers = people.select(found.choice(campaign)).to_series().to_list()
    return [found.variants[n].label for n in numbers]


PEOPLE = pl.DataFrame(
    {"contact_id": [1, 2, 3, 4, 5, 6], "language": ["de", "DE-at", "den", None, "fr", "de"],
     "category": [None, "press", None, "Press", "shop", "press"]},
    schema_overrides={"language": pl.String, "category": pl.String},
)  # fmt: skip


def test_the_first_variant_that_fits_is_sent_and_the_template_to_everybody_else():
    assert chosen(contents(a=1), 1, PEOPLE) == ["a:de", "a:de", "a", "a:press", "a", "a:de"]


def test_shares_are_kept_and_a_contact_always_gets_the_same():
    people = pl.DataFrame({"contact_id": range(20_000), "language": "fr", "category": "x"})
    found = contents(a=70, b=20, c=10)
    once = chosen(found, 5, people)
    assert once == chosen(found, 5, people) != chosen(found, 6, people)
    counts = {label: once.count(label) for label in set(once)}
    assert all(abs(counts[label] - want) < 400 for label, want in (("a", 14000), ("b", 4000), ("c", 2000)))
    # campaigns draw apart: who got b in one gets b in another as seldom as anybody
    both = sum(x == y == "b" for x, y in zip(once, chosen(found, 6, people), strict=True))
    assert 600 < both < 1000


def test_the_draw_is_splitmix64():
    people = pl.DataFrame({"contact_id": [0, 1, 2**40]})
    mask, expected = 2**64 - 1, []
    for contact in (0, 1, 2**40):
        h = (contact + 3 * 0x9E3779B97F4A7C15) & mask
        h = ((h ^ (h >> 30)) * 0xBF58476D1CE4E5B9) & mask
        h = ((h ^ (h >> 27)) * 0x94D049BB133111EB) & mask
        expected.append(h ^ (h >> 31))
    assert people.select(variants.mixed(3)).to_series().to_list() == expected


def test_a_template_that_is_not_there_is_named():
    with pytest.raises(Misconfigured, match="no template acme/b"):
        variants.given({"b": 1}, {}, "acme")
