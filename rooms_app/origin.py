"""Which sites may open a WebSocket here: Django's CSRF rule, applied to the handshake.

A browser sends our cookies along with any site's WebSocket, and no CSRF token. What no site can make it forge
is the Origin header, so that is checked first.
"""

from __future__ import annotations

import io
import logging
import re

from django.core.exceptions import DisallowedHost
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpResponse
from django.http.request import split_domain_port
from django.middleware.csrf import CsrfViewMiddleware
from django.utils.http import is_same_domain

from rooms_app.asgi import Application, Receive, Scope, Send

logger = logging.getLogger(__name__)


_DEFAULT_PORTS = {"http": "80", "https": "443"}
# Strict, since what a browser sends has always this form: no user, no path, and "null" is nobody's origin.
_ORIGIN = re.compile(r"(https?)://([a-z0-9.-]+|\[[a-f0-9:.]+\])(?::([0-9]{1,5}))?")
_NETLOC = re.compile(r"[A-Za-z0-9._-]+(:[0-9]{1,5})?")
#: What a line in the log repeats of a header, in characters.
_MAX_SHOWN = 200


class OriginCheck:
    """ASGI middleware that refuses the WebSockets of other sites, before they are accepted (HTTP 403)."""

    def __init__(self, application: Application) -> None:
        self.application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        reason = refusal(scope) if scope["type"] == "websocket" else None
        if reason is None:
            await self.application(scope, receive, send)
            return
        logger.warning("Refused a WebSocket: %s", reason)
        if (await receive())["type"] == "websocket.connect":
            await send({"type": "websocket.close"})


def refusal(scope: Scope) -> str | None:
    """Why this WebSocket may not be opened, as a sentence for the log.

    None where it may: by our own site, one in CSRF_TRUSTED_ORIGINS, or no browser.
    """
    handshake = _Handshake(scope)
    # Several Origin headers are one here, joined with commas, which is nobody's.
    origin = handshake.META.get("HTTP_ORIGIN")
    try:
        host = handshake.get_host()
    except DisallowedHost as error:
        return f"{str(error)[:_MAX_SHOWN]} Its origin is {_shown(origin)}."
    if origin is None:
        return None  # Not a browser's, so it carries nobody else's cookies.
    if _is_own(origin, host, handshake.scheme or "") or _is_trusted(origin):
        return None
    return f"its origin {_shown(origin)} is neither that of host {_shown(host)} nor in CSRF_TRUSTED_ORIGINS."


class _Handshake(ASGIRequest):
    """The opening request as Django's rules for hosts and proxies want to see it.

    Its `scheme` is empty where neither SECURE_PROXY_SSL_HEADER nor the server tells it, as under daphne.
    """

    def __init__(self, scope: Scope) -> None:
        # Without the Content-Type: a handshake has no use for it, and Django raises where it is malformed.
        headers = [(name, value) for name, value in scope.get("headers", ()) if name != b"content-type"]
        facts = {"headers": headers, "scheme": scope.get("scheme"), "server": scope.get("server")}
        super().__init__({"method": "GET", "path": "/", **facts}, io.BytesIO())

    def _get_scheme(self) -> str:
        return {"ws": "http", "wss": "https"}.get(self.scope["scheme"], "")


def _is_own(origin: str, host: str, own_scheme: str) -> bool:
    match = _ORIGIN.fullmatch(origin.lower())
    if match is None:
        return False
    scheme, domain, port = match.groups()
    if own_scheme not in (scheme, ""):
        return False
    own_domain, own_port = split_domain_port(host)
    default = _DEFAULT_PORTS[scheme]
    return (domain.removesuffix("."), port or default) == (own_domain, own_port or default)


def _is_trusted(origin: str) -> bool:
    # Django's own reading of CSRF_TRUSTED_ORIGINS. Made anew each time, since it caches what it has read.
    csrf = CsrfViewMiddleware(lambda request: HttpResponse())
    if origin in csrf.allowed_origins_exact:
        return True
    scheme, _, netloc = origin.partition("://")
    return _NETLOC.fullmatch(netloc) is not None and any(
        is_same_domain(netloc, pattern) for pattern in csrf.allowed_origin_subdomains.get(scheme, ())
    )


def _shown(value: str | None) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"
