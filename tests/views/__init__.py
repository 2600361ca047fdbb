"""PydanticAPIView: a DRF view whose handlers get a validated body and validated URL parameters."""

from __future__ import annotations

from typing import Any


def error(response: Any) -> dict[str, Any]:
    """The one error in a 400."""
    assert response.status_code == 400, response.content
    (only,) = response.json()["detail"]
    assert only.keys() == {"loc", "msg", "type"}
    assert only["msg"]
    return only
