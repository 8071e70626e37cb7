"""The page itself and its files. They hold nothing secret and need no token; what they ask for does."""

from __future__ import annotations

from hashlib import sha256
from importlib.resources import files

from fastapi import APIRouter, Request
from fastapi.responses import Response

from dateshard.service.web.problems import ProblemError

router = APIRouter(include_in_schema=False)
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",  # the scale of colours in a calendar
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types calendar",
    )
)
KINDS = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
    "txt": "text/plain; charset=utf-8",
}
UPLOT = ("uPlot.iife.min.js", "uPlot.min.css", "LICENSE.txt")


def _read() -> dict[str, bytes]:
    """All files of the page by the name that they are asked for: nothing else can be asked for."""
    static = files("dateshard.service.web.page") / "static"
    here = [path for path in static.iterdir() if path.is_file()]
    read = {path.name: path.read_bytes() for path in here}
    read |= {f"uplot/{name}": (static / "uplot" / name).read_bytes() for name in UPLOT}
    return {**read, "look.css": (files("dateshard.reports") / "look.css").read_bytes()}


FILES = _read()
TAGS = {name: f'"{sha256(data).hexdigest()[:32]}"' for name, data in FILES.items()}


@router.api_route("/", methods=["GET", "HEAD"])
def page(request: Request) -> Response:
    """Answers the page."""
    return _answer(request, "page.html", {"content-security-policy": POLICY})


@router.api_route("/assets/{name:path}", methods=["GET", "HEAD"])
def asset(name: str, request: Request) -> Response:
    """Answers one file of the page."""
    if name not in FILES:
        raise ProblemError(404, "the page has no such file")
    return _answer(request, name)


def _answer(request: Request, name: str, headers: dict[str, str] | None = None) -> Response:
    """A file; without its content where the browser has the same one already."""
    given = {**(headers or {}), "etag": TAGS[name], "cache-control": "no-cache"}
    if request.headers.get("if-none-match") == TAGS[name]:
        return Response(status_code=304, headers=given)
    return Response(FILES[name], media_type=KINDS[name.rpartition(".")[2]], headers=given)
