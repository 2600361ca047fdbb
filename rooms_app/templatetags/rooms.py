"""`{% load rooms %}`: what a page needs to connect without missing anything."""

from __future__ import annotations

from django import template

from rooms_app.positions import current_cursor_sync

register = template.Library()


@register.simple_tag
def rooms_cursor() -> str:
    """The cursor to connect with, "latest" where there is no history: `data-since="{% rooms_cursor %}"`.

    It is taken where the tag stands. Put it above whatever the template queries, or take `current_cursor_sync()` in
    the view before its first query and pass it on.
    """
    return current_cursor_sync() or "latest"
