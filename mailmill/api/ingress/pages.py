"""The pages a recipient sees: plain HTML, no script, no cookie, nothing loaded from anywhere."""

from __future__ import annotations

from html import escape

from starlette.responses import HTMLResponse

_STYLE = (
    "body{font:1.1rem/1.5 system-ui,sans-serif;max-width:36rem;margin:12vh auto;padding:0 1rem}"
    "button{font:inherit;padding:.6rem 1.2rem}:root{color-scheme:light dark}"
)
_HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Robots-Tag": "noindex",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
}


def _page(title: str, content: str, status: int = 200, retry_after_s: int | None = None) -> HTMLResponse:
    html = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<style>{_STYLE}</style></head>\n<body><main><h1>{title}</h1>\n{content}\n</main></body></html>\n"
    )
    headers = _HEADERS if retry_after_s is None else {**_HEADERS, "Retry-After": str(retry_after_s)}
    return HTMLResponse(html, status, headers)


def confirm(sender: str | None) -> HTMLResponse:
    """Asks; its button sends what a mail program's one-click button sends."""
    who = f" from <strong>{escape(sender)}</strong>" if sender else ""
    return _page(
        "Unsubscribe",
        f"<p>Do you want to receive no more mail{who}?</p>\n"
        '<form method="post"><input type="hidden" name="List-Unsubscribe" value="One-Click">'
        '<button type="submit">Yes, unsubscribe me</button></form>',
    )


def done() -> HTMLResponse:
    return _page("Unsubscribed", "<p>You will receive no more mail of this kind. It takes effect at once.</p>")


def tried() -> HTMLResponse:
    """For who tries the button of a preview or a test."""
    return _page("It works", "<p>This message was a test, sent to try it out: nobody is unsubscribed by it.</p>")


def unknown() -> HTMLResponse:
    return _page("Not found", "<p>This link is not complete. Please follow it from the mail again.</p>", 404)


def not_understood() -> HTMLResponse:
    return _page("Nothing was changed", "<p>Please use the button on the page of your unsubscribe link.</p>", 400)


def not_now() -> HTMLResponse:
    return _page("Please try again", "<p>We could not take note of this. Please try again in a minute.</p>", 503, 30)


def not_there() -> HTMLResponse:
    return _page("Please try again", "<p>This link cannot be followed at the moment.</p>", 503, 5)
