"""Requests to the views under test, through all of Django."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.test import AsyncClient, Client, override_settings

from tests.views import urls


@pytest.fixture(autouse=True)
def _urls():
    with override_settings(ROOT_URLCONF=urls.__name__, DEBUG=False, MIDDLEWARE=[], ALLOWED_HOSTS=["testserver"]):
        yield


@pytest.fixture(autouse=True)
def nothing_is_logged_as_an_error(caplog):
    """A client's mistake is no error of ours, and a test that expects an error of ours clears caplog."""
    yield
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


@pytest.fixture(params=["wsgi", "asgi"])
def ask(request):
    """A request through all of Django, under WSGI and under ASGI."""

    def ask(
        method: str,
        url: str,
        body: bytes | str | dict | list = b"",
        content_type: str = "application/json",
        **headers: str,
    ) -> Any:
        data = json.dumps(body) if isinstance(body, dict | list) else body
        options = {"content_type": content_type, "headers": headers}
        if request.param == "wsgi":
            return Client().generic(method, url, data, **options)
        return asynchronously(method, url, data, **options)

    @async_to_sync
    async def asynchronously(*args: Any, **options: Any) -> Any:
        return await AsyncClient().generic(*args, **options)

    return ask
