"""What an operator may write in a project's YAML files: one document a thing, told apart by `kind`.

Slugs name things within a tenant. Secrets are references (`env:NAME`, `file:path`), never values.
"""

from __future__ import annotations

from datetime import time
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from mailmill.pipelines.configuration.sending import Headers, IdentitySpec, TransportSpec
from mailmill.pipelines.configuration.words import (
    AwareTime,
    Country,
    Day,
    DomainName,
    FieldName,
    Grace,
    Language,
    LawfulBasis,
    Line,
    SecretReference,
    ServiceUrl,
    Slug,
    Spec,
    Tag,
    TenantOwned,
    TimeZone,
)
from mailmill.pipelines.target.comparisons import RuleError
from mailmill.pipelines.target.rules import parse


class MergeSpec(Spec):
    """Which contacts are shown as one person. Nothing is merged for good: switched off, everybody is back."""

    plus_tags: bool = False  # ann+news@x.org is ann@x.org
    dots: tuple[DomainName, ...] = ()  # at these domains a.nn is ann
    phone: bool = False  # who has the same phone number is the same person

    @property
    def is_on(self) -> bool:
        return self.strips or self.phone

    @property
    def strips(self) -> bool:
        """Whether several addresses may be one mailbox."""
        return self.plus_tags or bool(self.dots)


class TenantSpec(Spec):
    """An owner of data and limits. The postal address stands in every mail (it is the law in most places)."""

    kind: Literal["tenant"]
    slug: Slug
    name: Line
    postal_address: Line
    time_zone: TimeZone = "UTC"
    merge: MergeSpec = MergeSpec()


class ConsentPolicy(Spec):
    """What a source vouches for, of every row: the lawful basis of writing to its people, and what shows it."""

    basis: LawfulBasis
    proof: Line


class SourceSpec(TenantOwned):
    """Where contacts come from."""

    kind: Literal["source"]
    type: Literal["csv", "scraper_pro", "backlink_engine", "manual"]
    priority: int = Field(default=0, ge=-1000, le=1000)
    tags: tuple[Tag, ...] = ()  # every contact of this source gets them
    columns: dict[FieldName, str] = Field(default_factory=dict)  # field -> its column's header, where the names differ
    country: Country | None = None  # of rows that name none: a number without + is one of its numbers
    max_reject_share: float = Field(default=0.5, ge=0, le=1)  # above it the check fails and nothing is loaded
    consent: ConsentPolicy | None = None  # of single rows: columns consent_at, consent_basis, consent_proof
    on_change: Literal["report", "hold"] = "report"  # what becomes of a batch whose columns are not the last one's
    # csv
    folder: str | None = None  # where files are dropped, relative to the project folder
    encoding: str | None = None  # found by itself when not given
    delimiter: Literal[",", ";", "\t", "|"] | None = None  # likewise
    sheet: Line | None = None  # of a workbook; the first visible one with anything in it when not given
    # scraper_pro, backlink_engine
    url: ServiceUrl | None = None
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
        return self


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

    language: Language | None = None
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
    slug: Tag
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

    days: Annotated[tuple[Day, ...], Field(min_length=1)] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
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
    split: dict[Slug, Annotated[int, Field(ge=1, le=1000)]] = Field(default_factory=dict)  # A/B: template -> its share
    identity: Slug
    transport: Slug
    start: AwareTime | None = None  # none: started by hand (`mailmill campaign start`)
    ends: AwareTime | None = None  # nothing starts after it
    window: WindowSpec | None = None
    misfire_grace_s: Grace = 3600  # how late a start may be before the campaign counts as missed
    doubt: Literal["hold", "resend"] = "hold"
    max_attempts: int = Field(default=24, ge=1, le=50)
    give_up_after_s: int = Field(default=72 * 3600, ge=60)  # a recipient still deferred then has expired
    headers: Headers = Field(default_factory=dict)  # beside the identity's; of one name the campaign's wins

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
