"""F46: everything is edited while a campaign is sent; who is mailed, with what and by whom stays as it was frozen."""

from __future__ import annotations

from collections import Counter
from email import message_from_bytes
from email.policy import default

from people_world import People
from send_fixtures import Run
from send_oracle import judge
from send_world import Sink, World, by_address, thread, until

NUMBER = 40
PEOPLE = "email,name,phone,country,referred_by,tags\r\n" + "".join(
    f"p{n}@people.example,Person {n},,,,\r\n" for n in range(NUMBER)
)


def begin(people: People, port: int) -> None:
    people.tenant("acme", people=PEOPLE)
    yaml = people.mill.project / "acme.yaml"
    yaml.write_text(yaml.read_text().replace("type: sandbox", f"type: sandbox\nport: {port}"))
    people.do("apply", str(yaml))
    people.do("ingest", "acme/inbox")
    people.do("campaign", "start", "acme/spring")


def edit(people: People) -> None:
    """Template, segment, identity and the transport's limits by YAML; a contact's name, a new contact."""
    yaml = people.mill.project / "acme.yaml"
    text = yaml.read_text()
    for old, new in (
        ("subject: Spring", "subject: Changed"),
        ("<p>{{ email }}", "<p>changed {{ email }}"),
        ("rule: {all: []}", "rule: {tag: nobody}"),
        ("from_name: News", "from_name: Somebody Else"),
        ("type: sandbox", "type: sandbox\nconnections: 1"),
    ):
        assert old in text
        text = text.replace(old, new)
    yaml.write_text(text)
    people.do("apply", str(yaml))
    folder = people.mill.project / "acme"
    more = PEOPLE.replace("Person", "Nobody") + "new@people.example,New,,,,\r\n"
    (folder / "people.csv").write_text(more, encoding="utf-8", newline="")
    people.do("ingest", "acme/inbox")


def test_F46_P06_a_running_campaign_is_sent_as_it_was_frozen_whatever_is_edited(
    people: People, world: World, run: Run
) -> None:
    answers = {"dot": "wait"}  # nothing is taken before everything was edited, however long that takes
    with Sink(by_address(answers), keep_bodies=True) as sink:
        begin(people, sink.port)
        with thread(lambda: run(patience_s=60.0)) as result:
            until(lambda: sink.handed, what="the first message")
            edit(people)
            before = len(sink.handed)
            answers.clear()
            sink.go()
            result()
        assert before < NUMBER, "the edit came while it was sent"
        assert sink.copies == Counter(f"p{n}@people.example" for n in range(NUMBER))
        for one in sink.taken:
            message = message_from_bytes(one.body, policy=default)
            html = message.get_body(("html",))
            assert (message["Subject"], message["From"].addresses[0].display_name) == ("Spring", "News")
            assert html is not None and "changed" not in html.get_content()
        ((campaign,),) = people.rows("SELECT id FROM campaigns")
        assert judge(world, campaign, sink, doubts=0) == {"sent": NUMBER}
