"""The demo's page, and the views through which its visitors speak, and order reports."""

from __future__ import annotations

from typing import Annotated

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from pydantic import BaseModel, StringConstraints
from redis import RedisError
from rest_framework.exceptions import APIException, PermissionDenied
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response

from project import reports
from project.messages import ChatMessage
from project.visitors import is_guest_room, remember, visitor
from rooms_app import RoomName
from rooms_app.bus import BusUnavailable
from rooms_app.rooms import is_reserved
from rooms_app.views import PydanticAPIView

DEFAULT_ROOM = "lobby"

# What visitors write is only ever inserted as text; should that fail one day, no script of theirs runs.
_CONTENT_SECURITY_POLICY = (
    "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)


@require_safe
@never_cache  # the page names its visitor and carries a CSRF token
def page(request: HttpRequest) -> HttpResponse:
    """The chat; `?room=` picks the room."""
    speaker = visitor(request)
    room = request.GET.get("room") or DEFAULT_ROOM
    response = render(request, "project/chat.html", {"room": room, "speaker": speaker})
    response["Content-Security-Policy"] = _CONTENT_SECURITY_POLICY
    remember(response, speaker, secure=request.is_secure())
    return response


class ChatMessageRequest(BaseModel):
    """What a visitor sends: who it is from, and when, is the server's to say."""

    # Kept as it was written, spaces too; but something must be there to see.
    content: Annotated[str, StringConstraints(min_length=1, max_length=4_000, pattern=r"\S")]


class SendMessage(PydanticAPIView):
    """`POST {"content": "…"}`: say something in a room, signed in or as a guest."""

    permission_classes = [AllowAny]

    async def post(self, request: Request, room_id: RoomName, body: ChatMessageRequest) -> Response:
        """Answer once the channel layer has the message; 503 if it does not take it."""
        if is_reserved(room_id) or is_guest_room(room_id):
            raise PermissionDenied("This room is reserved: only the server itself may send to it.")
        speaker = visitor(request)
        message = ChatMessage(
            user_id=speaker.user_id,
            username=speaker.username,
            content=body.content,
            timestamp=timezone.now(),
        )
        await message.send(room_id, robust=False)  # somebody waits for the answer, so a failure must be told
        response = Response({"status": "sent"})
        remember(response, speaker, secure=request.is_secure())
        return response


class NoReports(APIException):
    """503: the order was not taken."""

    status_code = 503
    default_detail = "Reports can't be ordered at the moment: try again soon."
    default_code = "no_reports"


class OrderReport(PydanticAPIView):
    """`POST` without a body: have the worker make a report, signed in or as a guest."""

    permission_classes = [AllowAny]

    async def post(self, request: Request) -> Response:
        """Answer once it is ordered, with its id; while one is being made, with the id of that."""
        speaker = visitor(request)
        try:
            report_id = await reports.order(speaker.room)
        except (RedisError, BusUnavailable) as error:
            raise NoReports from error
        response = Response({"report_id": report_id}, status=202)
        remember(response, speaker, secure=request.is_secure())
        return response
