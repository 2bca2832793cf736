"""What an operator may write in a project's YAML files: one document a thing, told apart by `kind`.

Slugs name things within a tenant. Secrets are references (`env:NAME`, `file:path`), never values.
"""

from __future__ import annotations

import re
from datetime import datetime, time
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo, available_timezones

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    IPvAnyAddress,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from mailmill.pipelines.ingest.wordlists import countries
from mailmill.pipelines.send.headers import MAX_CUSTOM, problem
from mailmill.pipelines.target.comparisons import RuleError
from mailmill.pipelines.target.rules import parse

SLUG = re.compile(r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")  # of text from outside ask fullmatch: $ forgives a line end
Slug = Annotated[str, StringConstraints(pattern=SLUG.pattern)]
SecretReference = Annotated[str, StringConstraints(pattern=r"^(env:[A-Za-z_][A-Za-z0-9_]*|file:.+)$")]
FieldName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
Line = Annotated[str, StringConstraints(min_length=1, max_length=998, pattern=r"^[^\x00-\x1f\x7f]*$")]
DomainName = Annotated[
    str,
    StringConstraints(max_length=253, pattern=r"^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z][a-z0-9-]{0,61}[a-z0-9]$"),
]
Address = Annotated[str, StringConstraints(pattern=r"^[^@\s\x00-\x1f<>,;:\"()\[\]\\]{1,64}@[^@\s]+\.[^@\s.]+$")]


def _known_zone(name: str) -> str:
    if name not in available_timezones():
        raise ValueError(f"{name!r} is no time zone of the tz database, such as Europe/Berlin")
    return name


def _aware(at: datetime) -> datetime:
    if at.tzinfo is None:
        raise ValueError("a time needs its offset, such as 2026-12-01T09:00:00+01:00")
    return at


def _known_country(code: str) -> str:
    if code not in countries().values():
        raise ValueError(f"{code!r} is no country of ISO 3166-1, such as US or DE")
    return code


TimeZone = Annotated[str, AfterValidator(_known_zone)]
Country = Annotated[str, AfterValidator(_known_country)]
AwareTime = Annotated[datetime, AfterValidator(_aware)]
# GDPR article 6 (1) a-f
LawfulBasis = Literal[
    "consent", "contract", "legal_obligation", "vital_interests", "public_task", "legitimate_interests"
]  # fmt: skip
Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]


class Spec(BaseModel):
    """Unknown keys are errors: a typing mistake must not become a default."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class MergeSpec(Spec):
    """Which contacts are shown as one person. Nothing is merged for good: switched off, everybody is back."""

    plus_tags: bool = False  # ann+news@x.org is ann@x.org
    dots: tuple[DomainName, ...] = ()  # at these domains a.nn is ann
    phone: bool = False  # who has the same phone number is the same person

    @property
    def is_on(self) -> bool:
        return self.plus_tags or bool(self.dots) or self.phone


class TenantSpec(Spec):
    """An owner of data and limits. The postal address stands in every mail (it is the law in most places)."""

    kind: Literal["tenant"]
    slug: Slug
    name: Line
    postal_address: Line
    time_zone: TimeZone = "UTC"
    merge: MergeSpec = MergeSpec()


class TenantOwned(Spec):
    tenant: Slug
    slug: Slug


class ConsentPolicy(Spec):
    """What a source vouches for, of every row: the lawful basis of writing to its people, and what shows it."""

    basis: LawfulBasis
    proof: Line


class SourceSpec(TenantOwned):
    """Where contacts come from."""

    kind: Literal["source"]
    type: Literal["csv", "scraper_pro", "backlink_engine", "manual"]
    priority: int = Field(default=0, ge=-1000, le=1000)
    tags: tuple[Slug, ...] = ()  # every contact of this source gets them
    columns: dict[FieldName, str] = {}  # field -> header of the column it is in, where the names differ
    country: Country | None = None  # of rows that name none: a number without + is one of its numbers
    max_reject_share: float = Field(default=0.5, ge=0, le=1)  # above it the check fails and nothing is loaded
    consent: ConsentPolicy | None = None  # of single rows: columns consent_at, consent_basis, consent_proof
    on_change: Literal["report", "hold"] = "report"  # what becomes of a batch whose columns are not the last one's
    # csv
    folder: str | None = None  # where files are dropped, relative to the project folder
    encoding: str | None = None  # found by itself when not given
    delimiter: Literal[",", ";", "\t", "|"] | None = None  # likewise
    sheet: Line | None = None  # of a workbook; the first one with anything in it when not given
    # scraper_pro, backlink_engine
    url: str | None = None
    api_key: SecretReference | None = None
    on_delete: Literal["keep", "withdraw"] = "keep"  # what it means for a contact that the API has it no more
    page_size: int = Field(default=500, ge=1, le=5000)
    timeout_s: float = Field(default=30, gt=0, le=300)

    @model_validator(mode="after")
    def _fits_its_type(self) -> Self:
        http = self.type in ("scraper_pro", "backlink_engine")
        if http and (self.url is None or self.api_key is None):
            raise ValueError(f"a source of type {self.type} needs url and api_key")
        if not http and (self.url is not None or self.api_key is not None):
            raise ValueError(f"url and api_key do not belong to a source of type {self.type}")
        if self.type != "csv" and (self.folder or self.encoding or self.delimiter or self.sheet):
            raise ValueError(f"folder, encoding, delimiter and sheet do not belong to a source of type {self.type}")
        if not http and self.on_delete != "keep":
            raise ValueError(f"on_delete does not belong to a source of type {self.type}")
        if http and not (self.url or "").startswith(("http://", "https://")):
            raise ValueError("url has to begin with http:// or https://")
        return self


class TransportSpec(TenantOwned):
    """A way out: an SMTP relay, or the sandbox on loopback, to which every window and limit is open."""

    kind: Literal["transport"]
    type: Literal["smtp", "sandbox"]
    host: str = "127.0.0.1"
    port: int = Field(default=587, ge=1, le=65535)
    tls: Literal["required", "opportunistic", "implicit", "none"] = "required"  # required never falls back
    username: str | None = None
    password: SecretReference | None = None
    connections: int = Field(default=4, ge=1, le=200)
    auth: Literal["password", "xoauth2"] = "password"  # xoauth2: password refers to an access token kept fresh
    proxy: str | None = None  # socks5://host:port; with credentials a reference (env:, file:) to such a URL
    source_address: IPvAnyAddress | None = None  # of this host; the address that the relay sees
    hello: DomainName | None = None  # the name said in EHLO; this host's when not given
    dsn: bool = False  # ask for reports of failure and delay where the relay offers DSN (RFC 3461)
    messages_per_connection: int = Field(default=1000, ge=1)
    # RFC 5321 4.5.3.2: five minutes for a command, two for DATA, ten for the final dot
    connect_timeout_s: float = Field(default=30, gt=0, le=300)
    timeout_s: float = Field(default=300, gt=0, le=600)
    data_timeout_s: float = Field(default=120, gt=0, le=600)
    final_dot_timeout_s: float = Field(default=600, gt=0, le=1800)
    per_minute: int | None = Field(default=None, ge=1)
    per_day: int | None = Field(default=None, ge=1)
    webhook_secret: SecretReference | None = None  # signs what POSTs to /webhooks/<tenant>/<transport>

    @model_validator(mode="after")
    def _fits_its_type(self) -> Self:
        if self.type == "sandbox" and self.host not in ("127.0.0.1", "::1", "localhost"):
            raise ValueError("a sandbox is on loopback: host has to be 127.0.0.1, ::1 or localhost")
        if (self.username is None) != (self.password is None):
            raise ValueError("username and password go together")
        if self.auth == "xoauth2" and self.username is None:
            raise ValueError("auth xoauth2 needs username, and password referring to the access token")
        if self.proxy is not None and not re.match(r"^(env:|file:|socks5h?://[^@/]+:\d+$)", self.proxy):
            raise ValueError("proxy is socks5://host:port, or env: or file: referring to such a URL with credentials")
        if self.username and self.tls == "none" and self.type == "smtp":
            raise ValueError("a password is not sent in the clear: set tls to required or implicit")
        return self


class DkimSpec(Spec):
    """A key that signs an identity's messages; `mailmill keys dkim` makes it and says what to publish.

    Without `key` the relay signs with this selector, and the record is only looked up.
    """

    selector: Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
    domain: DomainName  # that of from_address, or one above it
    key: SecretReference | None = None
    algorithm: Literal["rsa", "ed25519"] = "rsa"


def _headers(headers: dict[str, str]) -> dict[str, str]:
    wrong = [found for found in (problem(name, value) for name, value in headers.items()) if found]
    if len({name.lower() for name in headers}) < len(headers):
        wrong.append("a header stands twice")
    if len(headers) > MAX_CUSTOM:
        wrong.append(f"more than {MAX_CUSTOM} headers")
    if wrong:
        raise ValueError(wrong[0])
    return headers


Headers = Annotated[dict[str, str], AfterValidator(_headers)]


class IdentitySpec(TenantOwned):
    """Who a mail is from."""

    kind: Literal["identity"]
    from_name: Line
    from_address: Address
    reply_to: Address | None = None
    return_path_domain: DomainName  # where bounces go; aligned with the domain of from_address
    unsubscribe_mailbox: Address | None = None  # read by `mailmill unsubscribe`
    headers: Headers = {}
    dkim: tuple[DkimSpec, ...] = Field(default=(), max_length=4)

    @field_validator("from_address", "reply_to", "unsubscribe_mailbox")
    @classmethod
    def _reaches_everybody(cls, address: str | None) -> str | None:
        if address is not None and not address.rpartition("@")[0].isascii():
            raise ValueError("before the @ only ASCII is allowed: few relays carry anything else")
        return address


class ContentSpec(Spec):
    """Subject, HTML and text as Jinja2, each part showing {{ unsubscribe_url }} and {{ postal_address }}."""

    subject: Line
    html: str | None = None
    html_file: str | None = None  # relative to the YAML file; read when it is applied
    text: str | None = None  # derived from the HTML when neither it nor text_file is given
    text_file: str | None = None

    @model_validator(mode="after")
    def _one_of_each(self) -> Self:
        if (self.html is None) == (self.html_file is None):
            raise ValueError("give html or html_file, one of them")
        if self.text is not None and self.text_file is not None:
            raise ValueError("give text or text_file, not both")
        return self


class VariantSpec(ContentSpec):
    """A template's content for some: those of a language, of a category, or both."""

    language: Line | None = None
    category: Line | None = None

    @model_validator(mode="after")
    def _is_for_some(self) -> Self:
        if self.language is None and self.category is None:
            raise ValueError("give language, category or both: the template itself is for everybody else")
        return self


class TemplateSpec(TenantOwned, ContentSpec):
    """A content for everybody, and others for some; the first variant that fits a recipient is sent."""

    kind: Literal["template"]
    variants: tuple[VariantSpec, ...] = Field(default=(), max_length=100)


class TagSpec(TenantOwned):
    """What a tag means. Tags need no document; one that was deleted comes back by having one."""

    kind: Literal["tag"]
    description: str = ""


class FieldSpec(TenantOwned):
    """The type of a custom field: a row whose value does not fit is rejected (pipelines/ingest/fields.py)."""

    kind: Literal["field"]
    slug: FieldName
    type: Literal["text", "number", "date", "boolean", "choice"]
    values: tuple[Line, ...] = ()
    description: str = ""

    @model_validator(mode="after")
    def _fits_its_type(self) -> Self:
        if (self.type == "choice") != bool(self.values):
            raise ValueError("values belong to a field of type choice, which needs them")
        if len({value.casefold() for value in self.values}) < len(self.values):
            raise ValueError("values have to differ in more than upper and lower case")
        return self


class SegmentSpec(TenantOwned):
    """A rule over contacts; docs/segments.md has its grammar."""

    kind: Literal["segment"]
    name: str = ""
    rule: dict[str, Any]

    @field_validator("rule")
    @classmethod
    def _can_be_followed(cls, rule: dict[str, Any]) -> dict[str, Any]:
        """The error keeps its place within the rule, so that the file's line can be named."""
        try:
            parse(rule)
        except RuleError as error:
            kind = PydanticCustomError("rule", "{problem}", {"problem": error.message})
            details = InitErrorDetails(type=kind, loc=error.place, input=rule)
            raise ValidationError.from_exception_data("rule", [details]) from None
        return rule


class WindowSpec(Spec):
    """The hours in which messages may start."""

    days: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
    start: time = time(0)
    end: time = time(0)  # 00:00 means the end of the day; before `start` means over midnight
    time_zone: TimeZone | None = None  # the tenant's when not given

    @property
    def zone(self) -> ZoneInfo | None:
        return ZoneInfo(self.time_zone) if self.time_zone else None


class CampaignSpec(TenantOwned):
    """One sending of one content to one frozen audience."""

    kind: Literal["campaign"]
    name: str = ""
    segment: Slug
    template: Slug | None = None
    split: dict[Slug, Annotated[int, Field(ge=1, le=1000)]] = {}  # A/B instead of template: template -> its share
    identity: Slug
    transport: Slug
    start: AwareTime | None = None  # none: started by hand (`mailmill campaign start`)
    ends: AwareTime | None = None  # nothing starts after it
    window: WindowSpec | None = None
    misfire_grace_s: int = Field(default=3600, ge=0)  # how late a start may be before the campaign counts as missed
    doubt: Literal["hold", "resend"] = "hold"
    max_attempts: int = Field(default=8, ge=1, le=50)
    give_up_after_s: int = Field(default=72 * 3600, ge=60)  # a recipient still deferred then has expired
    headers: Headers = {}  # beside the identity's; of one name the campaign's wins

    @property
    def shares(self) -> dict[str, int]:
        """The templates this campaign sends, and how much of it each is."""
        return self.split or {str(self.template): 1}

    @model_validator(mode="after")
    def _has_a_content(self) -> Self:
        if (self.template is None) == (not self.split):
            raise ValueError("give template, or split with two templates or more, one of them")
        if len(self.split) == 1:
            raise ValueError("split: one template is no split; give it as template")
        return self


Document = Annotated[
    TenantSpec
    | TagSpec
    | FieldSpec
    | SourceSpec
    | TransportSpec
    | IdentitySpec
    | TemplateSpec
    | SegmentSpec
    | CampaignSpec,
    Field(discriminator="kind"),
]
KINDS = (
    "tenant", "tag", "field", "source", "transport", "identity", "template", "segment", "campaign",
)  # fmt: skip # in the order of applying
