"""The body: JSON of a declared type, as the handler's annotation says, or one clear 400."""

from __future__ import annotations

import io
from typing import Any

import pytest
from asgiref.testing import ApplicationCommunicator
from django.core.handlers.asgi import ASGIHandler
from django.test import Client, override_settings

from tests.views import error
from tests.views.urls import Guarded, Messages


def test_a_handler_gets_the_validated_body_and_url_parameters(ask):
    response = ask("POST", "/rooms/chat-42/", {"content": "hi"})
    assert response.status_code == 201
    assert response.json() == {"room": "chat-42", "content": "hi"}
    assert response["Content-Type"] == "application/json"


def test_an_async_handler_runs_beside_a_sync_one(ask):
    """Its sync_to_async code, the ORM's too, comes back to the thread that DRF's own code runs in."""
    response = ask("PUT", "/rooms/chat-42/", {"content": "hi"})
    assert response.json() == {"content": "hi", "same_thread": True}


def test_the_view_is_sync_for_django():
    assert Messages.view_is_async is False
    assert Guarded.view_is_async is False


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_a_wrong_body_is_a_400_with_pydantics_own_location(ask, method):
    assert error(ask(method, "/rooms/1/", {})) == {
        "loc": ["content"],
        "msg": "Field required",
        "type": "missing",
    }
    assert error(ask(method, "/rooms/1/", {"content": ""}))["type"] == "string_too_short"
    assert error(ask(method, "/rooms/1/", []))["loc"] == []


def test_every_error_is_told_and_numbers_in_a_location_stay_numbers(ask):
    response = ask("PUT", "/choice/", [{"kind": "ping"}, {"kind": "x"}, {}])
    assert [(one["loc"], one["type"]) for one in response.json()["detail"]] == [
        ([1, "kind"], "literal_error"),
        ([2, "kind"], "missing"),
    ]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b"not json",
        b"\xff\xfe",
        b"\xef\xbb\xbf{}",
        b'{"content": "\xed\xa0\x80"}',
        b'{"content": "\\ud800"}',
        b'{"content": NaN}',
        b'{"content": "x", "other": NaN}',
        b'{"content": "x", "other": -Infinity}',
        b'{"content": "x", "other": ' + b"9" * 5000 + b"}",
        b'{"content": ' + b"[" * 100_000,
        b'{"content": "x", "other": ' + b'{"a":' * 50_000 + b"1" + b"}" * 50_001,
        b'{"content": "x"} {}',
        b'{"content": "\x00"}',
    ],
    ids=lambda body: repr(body[:30]),
)
def test_what_is_no_json_is_a_400(ask, body):
    problem = error(ask("POST", "/rooms/1/", body))
    assert (problem["loc"], problem["type"]) == ([], "json_invalid")
    assert problem["msg"].startswith("Invalid JSON: ")


def test_nan_is_no_json_even_where_the_model_has_a_float(ask):
    """Which Pydantic would take, and a browser could not parse again."""
    assert error(ask("PATCH", "/choice/", b'{"a": NaN}'))["type"] == "json_invalid"
    assert ask("PATCH", "/choice/", b'{"NaN": 1.5}').json() == ["NaN"]


def test_a_strict_model_takes_what_json_can_say(ask):
    """JSON has no UUIDs and no tuples: what it was parsed to would be wrong for a strict model."""
    user = "3f2a8f0e-2b1d-4d5e-9c3a-0f6c2f1f7a11"
    assert ask("POST", "/strict/", {"user": user, "tags": ["a"]}).json() == {"user": user, "tags": ["a"]}
    assert error(ask("POST", "/strict/", {"user": user, "tags": [1]}))["loc"] == ["tags", 0]


def test_the_body_may_be_made_of_several_models(ask):
    assert ask("POST", "/choice/", {"kind": "pong", "of": {"n": 1}}).json() == {"kind": "pong"}
    assert ask("PUT", "/choice/", [{"kind": "ping"}]).json() == 1
    assert error(ask("POST", "/choice/", {"kind": "pong", "of": {}}))["loc"] == ["pong", "of", "n"]


def test_errors_do_not_echo_what_was_sent(ask):
    huge = "x" * 100_000
    for url, body in [
        ("/strict/", {"user": "3f2a8f0e-2b1d-4d5e-9c3a-0f6c2f1f7a11", huge: 1}),
        ("/strict/", {"user": huge}),
        ("/choice/", {"kind": huge}),
        ("/repeating/", {"content": huge}),
        ("/rooms/1/", {"content": huge}),
        ("/rooms/1/", huge),
    ]:
        response = ask("POST", url, body)
        error(response)
        assert len(response.content) < 1_000


def test_a_body_that_is_wrong_all_over_is_not_answered_with_as_many_errors(ask):
    problem = error(ask("PUT", "/choice/", [0] * 5_000))
    assert problem == {"loc": [], "msg": "There are 5000 errors.", "type": "too_many_errors"}


@pytest.mark.parametrize("length", [101, 1_000])
@override_settings(DATA_UPLOAD_MAX_MEMORY_SIZE=100)
def test_a_body_over_djangos_limit_is_a_400(ask, length):
    assert error(ask("POST", "/rooms/1/", b" " * length))["type"] == "too_large"


@override_settings(DATA_UPLOAD_MAX_MEMORY_SIZE=100)
def test_a_body_at_djangos_limit_is_read(ask):
    assert ask("POST", "/rooms/1/", b'{"content": "x"}'.ljust(100)).status_code == 201


def test_a_client_that_hangs_up_in_its_body_is_no_error_of_ours():
    class Broken(io.BytesIO):
        def read(self, *args: Any) -> bytes:
            raise OSError("connection reset")

    options = {"CONTENT_LENGTH": "10", "CONTENT_TYPE": "application/json", "wsgi.input": Broken()}
    assert error(Client().generic("POST", "/rooms/1/", **options))["type"] == "incomplete"


@pytest.mark.parametrize(
    "content_type",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "text/json",
        "x" * 300,
    ],
)
def test_only_json_is_taken(ask, content_type):
    response = ask("POST", "/rooms/1/", {"content": "hi"}, content_type)
    assert response.status_code == 415
    assert response.json() == {"detail": f'Unsupported media type "{content_type}" in request.'}


def test_a_body_of_no_declared_type_is_not_taken():
    """Any site can have a browser send one here without asking first."""
    response = Client().generic("POST", "/rooms/1/", '{"content": "hi"}', content_type="")
    assert response.status_code == 415


@pytest.mark.parametrize(("content_type", "status"), [(b"application/json", 201), (b"text/plain", 415)])
async def test_a_body_whose_length_is_not_declared_is_looked_at_too(content_type, status):
    """A chunked one, which for DRF is no body."""
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/rooms/1/",
        "query_string": b"",
        "headers": [(b"host", b"testserver"), (b"content-type", content_type)],
    }
    server = ApplicationCommunicator(ASGIHandler(), scope)
    await server.send_input({"type": "http.request", "body": b'{"content": "hi"}'})
    assert (await server.receive_output())["status"] == status
    await server.receive_output()


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "Application/JSON"])
def test_json_may_be_declared_in_any_usual_way(ask, content_type):
    assert ask("POST", "/rooms/1/", {"content": "hi"}, content_type).status_code == 201


def test_json_is_utf_8_whatever_the_charset_says(ask):
    body = '{"content": "é"}'
    assert ask("POST", "/rooms/1/", body, "application/json; charset=latin-1").json()["content"] == "é"
    assert error(ask("POST", "/rooms/1/", body.encode("utf-16"), "application/json; charset=utf-16"))


def test_there_is_no_browsable_api(ask):
    browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
    assert ask("GET", "/rooms/1/", accept=browser)["Content-Type"] == "application/json"
    assert ask("GET", "/rooms/1/", accept="text/html").status_code == 406
