"""The Origin check: a WebSocket is opened by our own site, by a trusted one, or by what is no browser."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from typing import Any

import pytest
from asgiref.testing import ApplicationCommunicator
from django.test import override_settings

from rooms_app.origin import OriginCheck, refusal

OWN = "http://chat.example.com"


@pytest.fixture(autouse=True)
def _hosts():
    with override_settings(
        DEBUG=False,
        ALLOWED_HOSTS=["chat.example.com", "[::1]", "127.0.0.1"],
        CSRF_TRUSTED_ORIGINS=[],
        SECURE_PROXY_SSL_HEADER=None,
        USE_X_FORWARDED_HOST=False,
        USE_X_FORWARDED_PORT=False,
    ):
        yield


def handshake(
    *origins: str | bytes,
    host: str | bytes | None = "chat.example.com",
    scheme: str | None = None,
    server: tuple[str, int | None] | None = ("10.0.0.5", 8000),
    **headers: str,
) -> dict[str, Any]:
    """A WebSocket's scope, as daphne makes it (no scheme) or uvicorn (with one)."""
    pairs = [(b"origin", origin) for origin in origins]
    pairs += [(name.replace("_", "-").encode(), value) for name, value in headers.items()]
    if host is not None:
        pairs.append((b"host", host))
    scope: dict[str, Any] = {
        "type": "websocket",
        "path": "/ws/rooms/1",
        "query_string": b"\xff",
        "server": server,
        "headers": [(name, v if isinstance(v, bytes) else v.encode()) for name, v in pairs],
    }
    return scope if scheme is None else scope | {"scheme": scheme}


# Our own site.


def test_a_page_of_the_same_site_may_connect():
    assert refusal(handshake(OWN)) is None


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example.com",
        "http://example.com",
        "http://chat.example.com.evil.com",
        "http://evilchat.example.com",
        "http://chat.example.com:8000",
        "ftp://chat.example.com",
        "ws://chat.example.com",
    ],
)
def test_a_page_of_another_site_may_not(origin):
    assert refusal(handshake(origin))


def test_the_port_is_part_of_the_origin():
    assert refusal(handshake("http://127.0.0.1:8000", host="127.0.0.1:8000")) is None
    assert refusal(handshake("http://127.0.0.1:8001", host="127.0.0.1:8000"))
    assert refusal(handshake("http://127.0.0.1", host="127.0.0.1:8000"))


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("https://chat.example.com", "chat.example.com:443"),
        ("https://chat.example.com:443", "chat.example.com"),
        ("http://chat.example.com", "chat.example.com:80"),
        ("http://chat.example.com:80", "chat.example.com"),
    ],
)
def test_a_default_port_is_the_same_written_or_not(origin, host):
    assert refusal(handshake(origin, host=host)) is None


def test_a_default_port_is_that_of_the_origins_own_scheme():
    assert refusal(handshake("http://chat.example.com", host="chat.example.com:443"))
    assert refusal(handshake("https://chat.example.com", host="chat.example.com:80"))


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://chat.example.com", "CHAT.Example.COM"),
        ("http://CHAT.example.com", "chat.example.com"),
        ("http://chat.example.com.", "chat.example.com."),
        ("http://[::1]:8000", "[::1]:8000"),
        ("http://[::1]", "[::1]"),
    ],
)
def test_case_a_final_dot_and_ipv6_make_no_difference(origin, host):
    assert refusal(handshake(origin, host=host)) is None


# http or https.


def test_either_scheme_may_connect_where_nothing_tells_which_it_is():
    """Daphne gives a WebSocket's scope no scheme."""
    assert refusal(handshake("http://chat.example.com")) is None
    assert refusal(handshake("https://chat.example.com")) is None


@pytest.mark.parametrize(("scheme", "own", "other"), [("ws", "http", "https"), ("wss", "https", "http")])
def test_the_scheme_is_the_one_the_server_tells(scheme, own, other):
    assert refusal(handshake(f"{own}://chat.example.com", scheme=scheme)) is None
    assert refusal(handshake(f"{other}://chat.example.com", scheme=scheme))


@pytest.mark.parametrize("scheme", [None, "ws", "wss"])
@pytest.mark.parametrize(("told", "own", "other"), [("https", "https", "http"), ("http", "http", "https")])
@override_settings(SECURE_PROXY_SSL_HEADER=("HTTP_X_FORWARDED_PROTO", "https"))
def test_a_trusted_proxys_word_on_the_scheme_comes_before_the_servers(scheme, told, own, other):
    headers = {"x_forwarded_proto": told, "scheme": scheme}
    assert refusal(handshake(f"{own}://chat.example.com", **headers)) is None
    assert refusal(handshake(f"{other}://chat.example.com", **headers))


@override_settings(SECURE_PROXY_SSL_HEADER=("HTTP_X_FORWARDED_PROTO", "https"))
def test_a_proxy_that_says_nothing_leaves_the_word_to_the_server():
    assert refusal(handshake("https://chat.example.com", scheme="wss")) is None
    assert refusal(handshake("https://chat.example.com", scheme="ws"))
    assert refusal(handshake("https://chat.example.com")) is None


def test_a_proxys_header_that_is_not_configured_says_nothing():
    assert refusal(handshake("https://chat.example.com", scheme="ws", x_forwarded_proto="https"))


# Trusted sites.


@override_settings(CSRF_TRUSTED_ORIGINS=["https://app.example.org", "https://app.example.org:8443"])
def test_a_trusted_origin_may_connect_exactly_as_it_is_written():
    assert refusal(handshake("https://app.example.org")) is None
    assert refusal(handshake("https://app.example.org:8443", scheme="ws")) is None
    assert refusal(handshake("http://app.example.org"))
    assert refusal(handshake("https://app.example.org:9000"))
    assert refusal(handshake("https://sub.app.example.org"))


@override_settings(CSRF_TRUSTED_ORIGINS=["https://*.example.org"])
def test_a_wildcard_trusts_each_subdomain_under_its_scheme():
    assert refusal(handshake("https://a.example.org")) is None
    assert refusal(handshake("https://a.b_c.example.org")) is None
    assert refusal(handshake("http://a.example.org"))
    assert refusal(handshake("https://a.example.org:8443"))
    assert refusal(handshake("https://evilexample.org"))
    assert refusal(handshake("https://example.org.evil.com"))


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.com/.example.org",
        "https://evil.com#.example.org",
        "https://evil.com?.example.org",
        "https://evil.com\\.example.org",
        "https://user@a.example.org",
        "https://evil.com,https://a.example.org",
        b"https://\xff.example.org",
        "https://[.example.org",
    ],
)
@override_settings(CSRF_TRUSTED_ORIGINS=["https://*.example.org"])
def test_a_wildcard_does_not_trust_what_only_ends_like_a_subdomain(origin):
    assert refusal(handshake(origin))


@override_settings(CSRF_TRUSTED_ORIGINS=["capacitor://localhost"])
def test_the_origin_of_an_app_can_be_trusted():
    assert refusal(handshake("capacitor://localhost")) is None


# No origin, or none that can be read.


def test_what_sends_no_origin_is_no_browser_and_goes_on():
    assert refusal(handshake()) is None


@pytest.mark.parametrize("origins", [("null",), ("",), (OWN, OWN), (OWN, "http://evil.com"), ("null", OWN)])
def test_null_an_empty_origin_and_several_are_refused(origins):
    assert refusal(handshake(*origins))


def test_an_origin_header_counts_however_its_name_is_written():
    scope = handshake()
    scope["headers"].append((b"Origin", b"http://evil.com"))
    assert refusal(scope)


@pytest.mark.parametrize(
    "origin",
    [
        b"\xff\xfe\x00",
        b"http://\xc3\xa9.example.com",
        b"http://[::1",
        b"http://[zz]",
        b"http://chat.example.com:999999",
        b"http://chat.example.com:port",
        b"http://chat.example.com/",
        b"http://chat.\texample.com",
        b"http://chat.example.com\n",
        b"://",
        b"http://",
        b"x" * 60_000,
    ],
)
def test_garbage_is_refused(origin):
    assert refusal(handshake(origin))


# The host.


@pytest.mark.parametrize("origins", [(), ("http://evil.com",), (OWN,)])
@pytest.mark.parametrize("host", ["evil.com", "", b"\xff\xfe", "chat.example.com:x", "a,b", "[::1", "x" * 9000])
def test_a_host_that_is_not_allowed_is_refused_even_without_an_origin(host, origins):
    assert refusal(handshake(*origins, host=host))


@pytest.mark.parametrize("server", [("/run/daphne.sock", None), None, ("evil.com", 80)])
def test_a_handshake_without_a_host_goes_by_the_servers_address(server):
    assert refusal(handshake(host=None, server=server))
    assert refusal(handshake("http://127.0.0.1:8000", host=None, server=("127.0.0.1", 8000))) is None


@override_settings(ALLOWED_HOSTS=[], DEBUG=True)
def test_in_debug_localhost_is_allowed_without_settings():
    assert refusal(handshake("http://localhost:8000", host="localhost:8000")) is None
    assert refusal(handshake("http://evil.com", host="evil.com"))


@override_settings(ALLOWED_HOSTS=["*"])
def test_allowing_every_host_does_not_allow_every_origin():
    assert refusal(handshake("http://anything.org", host="anything.org")) is None
    assert refusal(handshake("http://evil.com", host="anything.org"))


def test_the_host_a_proxy_forwards_counts_only_where_it_is_configured():
    scope = handshake(OWN, host="127.0.0.1:8000", x_forwarded_host="chat.example.com")
    assert refusal(scope)
    with override_settings(USE_X_FORWARDED_HOST=True):
        assert refusal(scope) is None
        assert refusal(handshake(OWN, x_forwarded_host="evil.com"))


@override_settings(USE_X_FORWARDED_PORT=True)
def test_the_port_a_proxy_forwards_stands_in_where_there_is_no_host():
    scope = handshake("http://127.0.0.1:9000", host=None, server=("127.0.0.1", 8000), x_forwarded_port="9000")
    assert refusal(scope) is None


@override_settings(USE_X_FORWARDED_HOST=True)
def test_headers_with_underscores_do_not_pass_for_those_with_hyphens():
    scope = handshake(OWN)
    scope["headers"].append((b"x_forwarded_host", b"evil.com"))
    assert refusal(scope) is None


@pytest.mark.parametrize("value", [b"text/html; charset=\x00", b"a; b*=nope''x", b"\xff" * 20_000])
def test_a_malformed_content_type_makes_no_difference(value):
    scope = handshake(OWN)
    scope["headers"].append((b"content-type", value))
    assert refusal(scope) is None


# The middleware.


async def accept(scope: Any, receive: Any, send: Any) -> None:
    """An application that takes every connection."""
    if scope["type"] == "websocket":
        await receive()
    await send({"type": f"{scope['type']}.accept"})


async def test_an_allowed_connection_reaches_the_application():
    connection = ApplicationCommunicator(OriginCheck(accept), handshake(OWN))
    await connection.send_input({"type": "websocket.connect"})
    assert await connection.receive_output() == {"type": "websocket.accept"}
    await connection.wait()


async def test_a_refused_connection_is_closed_before_it_is_accepted():
    """Which servers answer with HTTP 403, and which takes a connect event first."""
    connection = ApplicationCommunicator(OriginCheck(accept), handshake("http://evil.com"))
    assert await connection.receive_nothing()
    await connection.send_input({"type": "websocket.connect"})
    assert await connection.receive_output() == {"type": "websocket.close"}
    await connection.wait()


async def test_a_refused_connection_that_has_gone_already_is_sent_nothing():
    connection = ApplicationCommunicator(OriginCheck(accept), handshake("http://evil.com"))
    await connection.send_input({"type": "websocket.disconnect", "code": 1006})
    await connection.wait()
    assert await connection.receive_nothing()


@pytest.mark.parametrize("kind", ["http", "lifespan"])
async def test_what_is_no_websocket_passes(kind):
    connection = ApplicationCommunicator(OriginCheck(accept), {"type": kind})
    assert await connection.receive_output() == {"type": f"{kind}.accept"}
    await connection.wait()


@pytest.mark.parametrize(
    ("origin", "host", "named"),
    [
        ("http://evil.com", "chat.example.com", ["'http://evil.com'", "'chat.example.com'"]),
        (OWN, "evil.com", [f"'{OWN}'", "'evil.com'", "ALLOWED_HOSTS"]),
        ("http://a\nb", "chat.example.com", ["'http://a\\nb'"]),
    ],
)
async def test_a_refusal_is_one_warning_that_names_origin_and_host(origin, host, named, caplog):
    connection = ApplicationCommunicator(OriginCheck(accept), handshake(origin, host=host))
    await connection.send_input({"type": "websocket.connect"})
    await connection.wait()
    (record,) = [record for record in caplog.records if record.name.startswith(("rooms_app", "django"))]
    assert record.levelno == logging.WARNING
    assert record.exc_info is None
    for name in named:
        assert name in record.getMessage()


async def test_a_refusal_does_not_log_more_of_a_header_than_a_line(caplog):
    for scope in (handshake("x" * 60_000), handshake("x" * 60_000, host="y" * 60_000)):
        connection = ApplicationCommunicator(OriginCheck(accept), scope)
        await connection.send_input({"type": "websocket.connect"})
        await connection.wait()
    messages = [record.getMessage() for record in caplog.records if record.name == "rooms_app.origin"]
    assert len(messages) == 2
    assert max(map(len, messages)) < 700


def test_the_module_imports_before_django_is_set_up():
    """It is imported from asgi.py, perhaps above get_asgi_application()."""
    environment = {key: value for key, value in os.environ.items() if key != "DJANGO_SETTINGS_MODULE"}
    code = "import rooms_app.origin, django.apps; assert not django.apps.apps.ready"
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=60)
