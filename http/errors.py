"""What is answered to errors: Glance's three forms, and problem details for our own calls."""

import html
import re
from collections.abc import Mapping
from http import HTTPStatus

import orjson
import structlog
from aiohttp import web
from aiohttp.web_protocol import RequestPayloadError

from calotype.commands.errors import CalotypeError
from calotype.stores.log.errors import LogFull, LogUnavailable, TooManyConflicts

log = structlog.get_logger("calotype.http")


class Unauthenticated(CalotypeError):
    """The request carries no valid credentials (401); `headers` tell the client what is taken."""

    status = 401

    def __init__(self, explanation: str = "", headers: Mapping[str, str] | None = None) -> None:
        super().__init__(explanation)
        self.headers = headers or {}


class BodyStalled(CalotypeError):
    """No byte of the request's body came for `body_stall_seconds` (408)."""

    status = 408

    def __init__(self, seconds: float) -> None:
        super().__init__(f"No more of the request's body came within {seconds:g} seconds.")


class HeaderTooLong(CalotypeError):
    """A header that the service repeats is too long (431)."""

    status = 431


_LOG_REFUSED = (503, "The event log cannot take this now; try again.", {"Retry-After": "1"})
FOREIGN: dict[type[Exception], tuple[int, str, dict[str, str]]] = {
    LogFull: _LOG_REFUSED,
    LogUnavailable: _LOG_REFUSED,
    TooManyConflicts: (409, "Others changed this image at the same moment.", {}),
    RequestPayloadError: (400, "The request's body is malformed.", {}),
}
"""Status, explanation and headers for errors that are not ours, or know nothing of HTTP."""
_CUT_OFF = (BodyStalled, RequestPayloadError)
"""After these nobody knows where on the connection another request begins."""

TITLES = {
    413: "Request Entity Too Large",
    414: "Request-URI Too Long",
    416: "Request Range Not Satisfiable",
    422: "Unprocessable Entity",
}
"""Titles as the Image API spells them, whatever this Python's `http.HTTPStatus` calls them."""

SERVER = "calotype"
"""What answers say in `Server`: nothing of the versions that an attacker could look up."""

SENTENCES = {
    400: "The server could not comply with the request since it is either malformed or "
    "otherwise incorrect.",
    401: "This server could not verify that you are authorized to access the document you "
    "requested.",
    403: "Access was denied to this resource.",
    404: "The resource could not be found.",
    405: "The method is not allowed for this resource.",
    408: "The request's body did not come in time.",
    409: "There was a conflict when trying to complete your request.",
    410: "This resource is no longer available. No forwarding address is given.",
    411: "Content-Length header required.",
    412: "Request precondition failed.",
    413: "The body of your request was too large for this server.",
    414: "The request URI was too long for this server.",
    415: "The media type of the body is not supported here.",
    416: "The Range requested is not available.",
    422: "Unable to process the contained instructions",
    429: "The client has sent too many requests in a given amount of time",
    431: "The request header fields were too large",
    500: "The server has either erred or is incapable of performing the requested operation.",
    501: "This method is not implemented.",
    503: "The server is currently unavailable. Please try again at a later time.",
}
"""What is said when nothing particular is known."""

_MEDIA_RANGE = re.compile(r"[^\s/;]+/[^\s/;]+")
_QUALITY = re.compile(r"0(\.[0-9]{0,3})?|1(\.0{0,3})?")
_NAMES_OF_HTML = ("text/html", "text/*", "*/*")
_NAMES_OF_JSON = ("application/json", "application/*", "*/*")


def answer_to(request: web.Request, error: Exception, request_id: str) -> web.Response:
    """The answer to what a request raised; what the operator has to know is logged."""
    if isinstance(error, web.HTTPException):
        if error.status == 405 and request.method == "OPTIONS":
            return web.Response(status=200)
        allow = {name: error.headers[name] for name in ("Allow",) if name in error.headers}
        return _refusal(request, error.status, "", allow)
    _log_error(request, error, request_id)
    if isinstance(error, CalotypeError):
        text, headers, field = error.explanation, error.headers, error.field
        response = _refusal(request, error.status, text, headers, field)
    else:
        known = (FOREIGN[kind] for kind in FOREIGN if isinstance(error, kind))
        response = _refusal(request, *next(known, (500, "", {})))
    if isinstance(error, _CUT_OFF):
        response.force_close()
    return response


def _log_error(request: web.Request, error: Exception, request_id: str) -> None:
    """One line for what concerns the operator; other refusals are the caller's affair."""
    if isinstance(error, CalotypeError):
        if error.decision is not None:
            log.info(
                "refused",
                rule=error.decision.rule,
                actor=error.decision.actor,
                target=f"{request.method} {request.path}",
                request_id=request_id,
            )
    elif isinstance(error, (LogFull, LogUnavailable)):
        log.error("event log refused", request_id=request_id, error=str(error))
    elif isinstance(error, (ConnectionError, TimeoutError)) and request.transport is None:
        # Clients vanish every day, so that is one quiet line. Nobody reads the answer.
        log.info("client vanished", request_id=request_id, path=request.path)
    elif not isinstance(error, tuple(FOREIGN)):
        log.error("request failed", request_id=request_id, path=request.path, exc_info=error)


def _refusal(
    request: web.Request,
    status: int,
    text: str,
    headers: Mapping[str, str],
    field: str | None = None,
) -> web.Response:
    if not is_own_call(request.path):
        return error_answer(status, text, request.headers.get("Accept"), headers=headers)
    title = TITLES.get(status) or HTTPStatus(status).phrase
    extra = {} if field is None else {"field": _sayable(field)}
    response = problem(status, title, _sayable(text) or SENTENCES.get(status, title), **extra)
    response.headers.update(headers)
    return response


def _sayable(text: str) -> str:
    """The text with what UTF-8 cannot say replaced."""
    return text.encode("utf-8", "replace").decode()


def error_answer(
    status: int,
    explanation: str,
    accept: str | None,
    *,
    headers: Mapping[str, str] | None = None,
) -> web.Response:
    """The answer in the form that `Accept` asks for: text/html, application/json or text/plain.

    HTML wins a tie with JSON, and text/plain is for those who accept neither or say nothing.
    Any text may be explained: what UTF-8 cannot say is replaced. A 500 never shows its
    explanation.
    """
    title = TITLES.get(status) or HTTPStatus(status).phrase
    line = f"{status} {title}"
    # What went wrong inside is for the log and not for strangers.
    text = (explanation if status != 500 else "") or SENTENCES.get(status, title)
    text = _sayable(text)
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
        headers={"Content-Type": content_type, "Server": SERVER, **(headers or {})},
    )


OWN_CALLS = "/log/"
"""Paths below this are calls of our own, and refused with problem documents."""


def is_own_call(path: str) -> bool:
    """Whether the path is one of our own calls, or would be."""
    return path.startswith(OWN_CALLS) or path == "/log"


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
        f"  <h1>{line}</h1>\n  {html.escape(text, quote=False)}<br /><br />\n\n\n\n"
        " </body>\n</html>"
    )


def _form(accept: str | None) -> str:
    if not accept or not accept.strip():
        return "plain"
    qualities: dict[str, float] = {}
    for element in accept.split(","):
        media, *parameters = (part.strip().lower() for part in element.split(";"))
        quality = _quality(parameters)
        if not media and not parameters:
            continue  # An empty element of a list means nothing.
        if quality is None or not _MEDIA_RANGE.fullmatch(media):
            return "html"  # A header that cannot be read is taken for "*/*".
        qualities[media] = max(quality, qualities.get(media, 0.0))
    of_html, of_json = _best(qualities, _NAMES_OF_HTML), _best(qualities, _NAMES_OF_JSON)
    if of_html > 0 and of_html >= of_json:
        return "html"
    return "json" if of_json > 0 else "plain"


def _quality(parameters: list[str]) -> float | None:
    """The weight among a media range's parameters: 1 where there is none, None if malformed."""
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            return float(value) if _QUALITY.fullmatch(value.strip()) else None
    return 1.0


def _best(qualities: dict[str, float], names: tuple[str, ...]) -> float:
    """The quality of the most particular name that was given, because it overrides the others."""
    return next((qualities[name] for name in names if name in qualities), 0.0)
