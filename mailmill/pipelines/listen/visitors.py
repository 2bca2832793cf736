"""Who fetched a pixel or followed a link: a person's program, or a machine that looks at everything.

A heuristic, by user agent only: privacy proxies and scanners that name themselves are found, one that calls itself a
browser is not. What it finds is kept as an event of its own kind, never thrown away.
"""

from __future__ import annotations

import ipaddress
import re

_MACHINES = re.compile(
    r"GoogleImageProxy|YahooMailProxy|YahooMobileMail|DuckDuckGo|ProtonMail-?Proxy"  # mail services' proxies
    r"|Barracuda|Mimecast|Proofpoint|Symantec|MessageLabs|TrendMicro|FireEye|Fortinet|Sophos|Cisco.?IronPort"
    r"|BitDefender|Cloudmark|Forcepoint|Zscaler|SafeLinks|MSOffice.?Protection|GoogleSafeBrowsing|Google-Safety"
    r"|(?<!cu)bot\b|crawl|spider|slurp|scan(ner|ning)|preview|facebookexternalhit|monitor|HeadlessChrome|PhantomJS"
    r"|^(curl|wget|python|java|go-http-client|okhttp|libwww|ruby|perl|axios|node|php|httpx|aiohttp|apache-httpclient)\b",
    re.IGNORECASE,
)
# Apple's Mail Privacy Protection fetches every image through its proxies and says nothing but this
_APPLE_PRIVACY = re.compile(r"Mozilla/5\.0\s*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
MAX_USER_AGENT = 200


def is_machine(user_agent: str | None) -> bool:
    """Whether a program fetched this by itself. None and blank count as one: mail programs name themselves."""
    if not user_agent or not user_agent.strip():
        return True
    return _APPLE_PRIVACY.fullmatch(user_agent) is not None or _MACHINES.search(user_agent) is not None


def cut_user_agent(user_agent: str | None) -> str | None:
    """What is kept of a user agent: 200 characters, none that controls anything."""
    return _CONTROL.sub(" ", user_agent[:MAX_USER_AGENT]) if user_agent else None


def truncated_ip(address: str | None) -> str | None:
    """The network an address is in, /24 or /48; no person is told from it. None for what is no address."""
    try:
        ip = ipaddress.ip_address(address or "")
    except ValueError:
        return None
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is None:
            return str(ipaddress.IPv6Address(int(ip) >> 80 << 80))
        ip = ip.ipv4_mapped
    return str(ipaddress.IPv4Address(int(ip) >> 8 << 8))
