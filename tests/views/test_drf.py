"""Everything else is as DRF has it: who may, how often, and what a failure is answered with."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from django.test import Client, override_settings
from pydantic import ValidationError
from rest_framework.exceptions import APIException
from rest_framework.views import exception_handler

from tests.views import error
from tests.views.urls import sign_in

CSRF_TOKEN = "a" * 32


def test_authentication_and_permissions_come_before_the_body(ask):
    for body in (b"{", b"", {"content": "hi"}):
        response = ask("POST", "/guarded/", body)
        assert response.status_code == 401
        assert response["WWW-Authenticate"] == "Token"
        assert response.json() == {"detail": "Authentication credentials were not provided."}
        response = ask("POST", "/guarded/", body, authorization="bob")
        assert response.json() == {"detail": "Incorrect authentication credentials."}
    assert ask("POST", "/guarded/", b"{", "text/plain").status_code == 401
    assert error(ask("POST", "/guarded/", b"{", authorization="ann"))["type"] == "json_invalid"
    assert ask("POST", "/guarded/", {"content": "hi"}, authorization="ann").json() == {"user": "ann"}


def test_throttles_come_before_the_body(ask):
    response = ask("POST", "/throttled/", b"{")
    assert response.status_code == 429
    assert response["Retry-After"] == "3"
    assert response.json()["detail"].startswith("Request was throttled.")


def test_a_permission_may_read_the_body_that_the_handler_gets(ask):
    assert ask("POST", "/judged/", {"content": "hi"}).json() == ["hi", "hi"]
    assert ask("POST", "/judged/", {"content": "secret"}).status_code == 403
    for body in (b"{", b"[" * 100_000, b'{"content": NaN}'):
        assert error(ask("POST", "/judged/", body))["type"] == "json_invalid"


@pytest.fixture
def ann():
    """A browser in which Ann is signed in, with the CSRF token it should send."""
    with override_settings(MIDDLEWARE=[f"{sign_in.__module__}.{sign_in.__qualname__}"]):
        client = Client(enforce_csrf_checks=True)
        client.cookies["csrftoken"] = CSRF_TOKEN
        yield client


def test_csrf_is_checked_for_sessions_as_in_drf(ann):
    """DRF checks it in its session authentication, and nowhere else."""
    options = {"data": {"content": "hi"}, "content_type": "application/json"}
    assert ann.post("/session/", headers={"X-CSRFToken": CSRF_TOKEN}, **options).json() == {"user": "ann"}
    response = ann.post("/session/", **options)
    assert response.status_code == 403
    assert response.json() == {"detail": "CSRF Failed: CSRF token missing."}
    assert ann.post("/rooms/1/", **options).status_code == 201


@pytest.mark.parametrize("body", [b"{", b"\xff", b'{"content": NaN}', b"[" * 100_000, b"x" * 3_000_000])
def test_the_csrf_check_does_not_read_the_body(ann, body):
    """DRF's would look for a form in it, and so parse it before any permission or throttle was asked."""
    options = {"content_type": "application/json", "headers": {"X-CSRFToken": CSRF_TOKEN}}
    assert error(ann.generic("POST", "/session/", body, **options))["type"] in ("json_invalid", "too_large")
    assert ann.generic("POST", "/session-denied/", body, **options).status_code == 403


@pytest.mark.parametrize("method", ["DELETE", "PATCH", "TRACE"])
def test_a_method_without_a_handler_is_a_405(ask, method):
    response = ask(method, "/rooms/1/", b"{")
    assert response.status_code == 405
    assert response.json() == {"detail": f'Method "{method}" not allowed.'}


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_drfs_own_exceptions_stay_as_they_are(ask, method):
    response = ask(method, "/not-found/")
    assert (response.status_code, response.json()) == (404, {"detail": "Not found."})


def test_a_handlers_own_mistake_with_a_model_is_not_the_clients(caplog):
    with pytest.raises(ValidationError):
        Client().post("/wrong/")
    caplog.clear()


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_invalid_room_is_a_400(ask, method):
    assert error(ask(method, "/invalid-room/")) == {
        "loc": ["room"],
        "msg": "A room name is a non-empty text of at most 255 characters.",
        "type": "invalid_room",
    }


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_forbidden_room_is_a_403(ask, method):
    response = ask(method, "/forbidden-room/")
    assert response.status_code == 403
    assert response.json() == {"detail": "This connection may not join the room 'secret'."}


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_message_that_is_too_large_is_a_400(ask, method):
    problem = error(ask(method, "/too-large/"))
    assert (problem["loc"], problem["type"]) == ([], "message_too_large")


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_rooms_that_are_unavailable_are_a_503_that_tells_nothing_of_the_inside(ask, method, caplog):
    response = ask(method, "/unavailable/")
    assert response.status_code == 503
    assert response.json() == {"detail": "The message was perhaps sent, perhaps not."}
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert (record.name, record.exc_info) == ("django.request", None)  # Django's own line for a 5xx
    caplog.clear()


def test_a_projects_exception_handler_sees_drf_exceptions():
    seen: list[Exception] = []

    def handler(exc: Exception, context: Any) -> Any:
        seen.append(exc)
        return exception_handler(exc, context)

    with override_settings(REST_FRAMEWORK={"EXCEPTION_HANDLER": handler}):
        Client().post("/rooms/1/", {}, content_type="application/json")
        Client().get("/forbidden-room/")
    missing, forbidden = seen
    assert isinstance(missing, APIException)
    assert isinstance(forbidden, APIException)
    assert missing.get_codes() == {"detail": ["missing"]}
    assert missing.get_full_details() == missing.detail
