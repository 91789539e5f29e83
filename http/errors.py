"""How refusals look on the wire: Glance's three forms, and problem details for our own calls."""

import html
import re
from collections.abc import Mapping
from http import HTTPStatus

import orjson
from aiohttp import web

from calotype.commands import errors

STATUS: dict[type[errors.CalotypeError], int] = {
    errors.Invalid: 400,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.Gone: 410,
    errors.LimitExceeded: 413,
    errors.UnsupportedMedia: 415,
    errors.RangeUnsatisfiable: 416,
    errors.Unavailable: 503,
}
"""The status of each kind of refusal."""

TITLES = {413: "Request Entity Too Large", 416: "Requested Range Not Satisfiable"}
"""Titles that the Image API spells in its own way."""

SENTENCES = {
    400: "The server could not comply with the request since it is either malformed or "
    "otherwise incorrect.",
    401: "This server could not verify that you are authorized to access the document you "
    "requested.",
    403: "Access was denied to this resource.",
    404: "The resource could not be found.",
    405: "The method is not allowed for this resource.",
    409: "There was a conflict when trying to complete your request.",
    413: "The body of your request was too large for this server.",
    415: "The media type of the body is not supported here.",
    500: "The server has either erred or is incapable of performing the requested operation.",
    501: "This method is not implemented.",
    503: "The server is currently unavailable. Please try again at a later time.",
}
"""What is said when nothing particular is known."""

_MEDIA_RANGE = re.compile(r"\s*([^;,\s]+)\s*((?:;[^,]*)?)")
_QUALITY = re.compile(r";\s*q\s*=\s*([0-9.]+)")


def status_of(error: errors.CalotypeError) -> int:
    """The HTTP status of a refusal; that of the nearest class in the table, or 500."""
    for kind in type(error).__mro__:
        if kind in STATUS:
            return STATUS[kind]
    return 500


def error_answer(
    status: int,
    explanation: str,
    accept: str | None,
    *,
    headers: Mapping[str, str] | None = None,
) -> web.Response:
    """The answer in the form that `Accept` asks for: text/html, application/json or text/plain.

    HTML wins a tie with JSON, and text/plain is for those who accept neither or say nothing.
    """
    title = TITLES.get(status) or HTTPStatus(status).phrase
    line = f"{status} {title}"
    text = explanation or SENTENCES.get(status, title)
    form = _form(accept)
    if form == "html":
        body = _html(line, text)
        content_type = "text/html; charset=UTF-8"
    elif form == "json":
        content = {"message": f"{text}<br /><br />\n\n\n", "code": line, "title": title}
        body = orjson.dumps(content).decode()
        content_type = "application/json"
    else:
        body = f"{line}\n\n{text}\n\n   "
        content_type = "text/plain; charset=UTF-8"
    return web.Response(
        body=body.encode(),
        status=status,
        reason=title,
        headers={"Content-Type": content_type, **(headers or {})},
    )


def problem(status: int, title: str, detail: str, **extra: object) -> web.Response:
    """A problem document (RFC 9457), the form of errors of our own calls."""
    content = {"type": "about:blank", "title": title, "status": status, "detail": detail, **extra}
    return web.Response(
        body=orjson.dumps(content),
        status=status,
        headers={"Content-Type": "application/problem+json"},
    )


def _html(line: str, text: str) -> str:
    return (
        f"<html>\n <head>\n  <title>{line}</title>\n </head>\n <body>\n"
        f"  <h1>{line}</h1>\n  {html.escape(text, quote=False)}<br /><br />\n\n\n"
        " </body>\n</html>"
    )


def _form(accept: str | None) -> str:
    if not accept or not accept.strip():
        return "plain"
    best = {"html": 0.0, "json": 0.0}
    exact = {"html": False, "json": False}
    for media, parameters in _MEDIA_RANGE.findall(accept):
        match = _QUALITY.search(parameters)
        try:
            quality = float(match[1]) if match else 1.0
        except ValueError:
            quality = 0.0
        for form, names in (
            ("html", ("text/html", "text/*", "*/*")),
            ("json", ("application/json", "application/*", "*/*")),
        ):
            if media.lower() not in names:
                continue
            # A name given outright counts more than a wildcard, wherever it stands.
            is_exact = media.lower() == names[0]
            if is_exact or not exact[form]:
                best[form] = quality if is_exact else max(best[form], quality)
                exact[form] = exact[form] or is_exact
    if best["html"] > 0 and best["html"] >= best["json"]:
        return "html"
    return "json" if best["json"] > 0 else "plain"
