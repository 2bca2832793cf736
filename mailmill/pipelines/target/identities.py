"""Whether an identity may send in bulk: verified before each campaign of it starts, unless that goes to a sandbox."""

from __future__ import annotations

from collections.abc import Callable

from mailmill.errors import Misconfigured
from mailmill.pipelines.configuration.sending import IdentitySpec
from mailmill.pipelines.send.mime import ascii_address
from mailmill.pipelines.target.preflight import DkimRecord, Finding, Sender, check, failures, told
from mailmill.pipelines.target.records import Records


def sender_of(identity: IdentitySpec, record: Callable[[str], str], public_url: str) -> Sender:
    """In: record, from a key's reference to the DNS record of its public half."""
    return Sender(
        from_domain=ascii_address(identity.from_address).rpartition("@")[2].lower(),
        return_path_domain=identity.return_path_domain,
        dkim=tuple(
            DkimRecord(
                name=f"{one.selector}._domainkey.{one.domain}",
                domain=one.domain,
                text=None if one.key is None else record(one.key),
            )
            for one in identity.dkim
        ),
        public_url=public_url,
    )


class Preflight:
    """Asked before a campaign starts, unless it goes to a sandbox."""

    def __init__(self, dns: Records | None, record: Callable[[str], str], public_url: str) -> None:
        self._dns, self._record, self._public_url = dns, record, public_url

    def findings(self, identity: IdentitySpec) -> list[Finding]:
        """Raises: DnsSilent; Misconfigured where no resolver is set, or a key cannot be read."""
        if self._dns is None:
            raise Misconfigured(
                "no resolver is set, so nobody knows whether providers take mail of this identity",
                place="MAILMILL_RESOLVER",
                remedy="Set it to your resolver, such as 127.0.0.1:53. A sandbox transport needs none.",
            )
        return check(sender_of(identity, self._record, self._public_url), self._dns)

    def require(self, identity: IdentitySpec) -> str:
        """Out: what a person should know all the same, empty when there is nothing.

        Raises: Misconfigured with what is wrong and the records to publish.
        """
        findings = self.findings(identity)
        wrong = failures(findings)
        if wrong:
            raise Misconfigured(
                wrong, place=f"identity {identity.tenant}/{identity.slug}",
                remedy=f"Publish what is named; `mailmill preflight {identity.tenant}/{identity.slug}` looks again.",
            )  # fmt: skip
        return told(findings, "warning")
