"""Helpers for a project's own tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from channels.layers import channel_layers
from django.utils.module_loading import import_string

from rooms_app.conf import channel_layer_configs


@contextmanager
def isolated_channel_layers() -> Iterator[None]:
    """Put fresh channel layers in force, made from TEST_CONFIG where there is one, else from CONFIG.

    Channels itself never uses TEST_CONFIG. Under pytest-xdist each worker gets a prefix of its own, so that tests
    that share one Redis don't meet. In a conftest.py:

        @pytest.fixture(autouse=True)
        def channel_layers():
            with isolated_channel_layers():
                yield
    """
    before = {alias: channel_layers.set(alias, _make(entry)) for alias, entry in channel_layer_configs().items()}
    try:
        yield
    finally:
        for alias, layer in before.items():
            if layer is None:
                channel_layers.backends.pop(alias, None)
            else:
                channel_layers.set(alias, layer)


def _make(entry: dict[str, Any]) -> Any:
    config = dict(entry.get("TEST_CONFIG", entry.get("CONFIG", {})))
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker and "hosts" in config:
        config["prefix"] = f"{config.get('prefix', 'asgi')}-{worker}"
    return import_string(entry["BACKEND"])(**config)
