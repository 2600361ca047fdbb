"""What can't work is an error at as_view()."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import Client
from pydantic import BaseModel
from rest_framework.response import Response

from rooms_app.exceptions import (
    RoomsConfigurationError,
)
from tests.views.urls import Delegating, OpenView, Ping, Pong


def refused(handler: Any, method: str = "post") -> str:
    """What as_view() says to a view with this handler."""
    view = type("Misfit", (OpenView,), {method: handler})
    with pytest.raises(RoomsConfigurationError) as caught:
        view.as_view()
    assert isinstance(caught.value, ImproperlyConfigured)
    return str(caught.value)


def test_an_annotation_that_cannot_be_resolved_is_named():
    def handler(self, request, room_id: str, body: Nowhere): ...  # noqa: F821

    message = refused(handler)
    assert "Misfit.post()" in message
    assert "'body'" in message
    assert "Nowhere" in message


def test_an_annotation_on_the_request_is_not_looked_at():
    def handler(self: Nowhere, request: Nowhere, body: Ping) -> Nowhere: ...  # noqa: F821

    type("Fine", (OpenView,), {"post": handler}).as_view()


def test_a_second_model_is_named():
    def handler(self, request, first: Ping, second: list[Pong] | None = None): ...

    message = refused(handler)
    assert "Misfit.post()" in message
    assert "'second'" in message
    assert "'first'" in message


@pytest.mark.parametrize("method", ["get", "head", "options", "trace"])
def test_a_body_where_requests_have_none_is_named(method):
    def handler(self, request, body: Ping): ...

    message = refused(handler, method)
    assert f"Misfit.{method}()" in message
    assert "'body'" in message


def test_an_annotation_that_pydantic_cannot_validate_is_named():
    class Thing: ...

    def handler(self, request, thing: Any): ...

    handler.__annotations__["thing"] = Thing
    assert "'thing'" in refused(handler, "get")


def test_a_model_that_is_not_complete_is_named():
    class Incomplete(BaseModel):
        other: Nowhere  # noqa: F821

    def handler(self, request, body: Any): ...

    handler.__annotations__["body"] = Incomplete
    message = refused(handler)
    assert "'body'" in message
    assert "Nowhere" in message


def test_views_do_not_share_what_their_handlers_take():
    """A subclass that takes another body leaves the one it comes from as it is."""

    class Other(Delegating):
        def post(self, request, room_id: int, body: Ping):
            return Response(body.kind)

    Other.as_view()
    response = Client().post("/delegating/1/", {"content": "hi"}, content_type="application/json")
    assert response.json() == "1: hi"
