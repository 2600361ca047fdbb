"""Broadcasts in the admin: write, preview, send; and who may."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin import AdminSite
from django.contrib.auth.admin import UserAdmin
from django.contrib.auth.models import Permission, User
from django.http import HttpResponse
from django.test import Client
from django.urls import path, reverse
from django.utils import timezone
from django.utils.html import escape

from rooms_app import WebSocketMessage, provide_ws_manager
from rooms_app.admin import BroadcastAdmin, NotifyRoomsMixin
from rooms_app.layers import channel_layer
from rooms_app.manager import ChannelLayerManager
from rooms_app.models import AuditEntry, Broadcast
from tests.clients import clients
from tests.live import free_port

pytestmark = pytest.mark.django_db(transaction=True)

State = Broadcast.State
ADD = "/admin/rooms_app/broadcast/add/"
FORM = f"{ADD}?type=tests.note"
VALID = {"message-number": "7", "message-text": "hello", "audience": "rooms", "rooms": "a\nb"}


class Siren(WebSocketMessage):
    """Wakes everyone up.

    Only for those who are called chief.
    """

    MESSAGE_ID = "tests.siren"

    @classmethod
    def may_broadcast(cls, user: Any) -> bool:
        return user.get_username() == "chief"


class Formless(WebSocketMessage):
    """What no form can be made of."""

    MESSAGE_ID = "tests.formless"
    call: Callable[[], None]


class Loose(WebSocketMessage):
    """What may hold any JSON."""

    MESSAGE_ID = "tests.loose"
    extra: Any


class TeamUserAdmin(NotifyRoomsMixin, UserAdmin):
    """What a team writes."""

    def get_rooms(self, obj: Any) -> list[str]:
        return [f"team-{obj.username}", "lobby"]


team_site = AdminSite(name="team")
team_site.register(User, TeamUserAdmin)
team_site.register(Broadcast, BroadcastAdmin)
urlpatterns = [path("admin/", team_site.urls)]


def signed_in(name: str, *permissions: str) -> Client:
    user = User.objects.create(username=name, is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture
def operator() -> Client:
    """May send, and nothing else."""
    return signed_in("ops", "send_broadcast")


def saved(client: Client, **values: str) -> Broadcast:
    """What the form makes of these values; fails when it does not take them."""
    answer = client.post(FORM, {**VALID, **values})
    assert answer.status_code == 302, text(answer)
    return Broadcast.objects.latest("created_at")


def page(broadcast: Broadcast, name: str = "change") -> str:
    return reverse(f"admin:rooms_app_broadcast_{name}", args=[broadcast.pk])


def text(answer: HttpResponse) -> str:
    return answer.content.decode()


def press(client: Client, broadcast: Broadcast, name: str) -> str:
    """Press a button of the broadcast as it was looked at; the page it leads to."""
    return text(client.post(page(broadcast, name), {"revision": broadcast.revision}, follow=True))


class TestWhoMay:
    """The permission to send, and nothing less."""

    def test_without_the_permission_there_is_no_page_no_button_and_no_link(self) -> None:
        """Not even with all of the usual ones."""
        usual = ("add_broadcast", "change_broadcast", "view_broadcast", "delete_broadcast", "view_user")
        client = signed_in("other", *usual)
        broadcast = Broadcast.objects.create(message_type="tests.note", payload={})
        pages = [page(broadcast, name) for name in ("change", "edit", "send", "schedule", "cancel", "delete")]
        for url in (ADD, FORM, reverse("admin:rooms_app_broadcast_changelist"), *pages):
            assert (client.get(url).status_code, client.post(url).status_code) == (403, 403), url
        assert "broadcast" not in text(client.get("/admin/"))
        broadcast.refresh_from_db()
        assert broadcast.state == State.DRAFT

    def test_an_operator_sees_only_the_types_she_may_send(self, operator: Client) -> None:
        """With the first line of what they are for; another's form is refused, also in a link."""
        choices = text(operator.get(ADD))
        assert "tests.note" in choices and "A numbered text." in choices and "tests.siren" not in choices
        assert operator.get(f"{ADD}?type=tests.siren").status_code == 403
        siren = Broadcast.objects.create(message_type="tests.siren", payload={})
        assert operator.post(page(siren, "send")).status_code == 403
        chief = signed_in("chief", "send_broadcast")
        assert 'value="Cancel it"' not in text(operator.get(page(siren))) and "Edit</a>" not in text(
            operator.get(page(siren))
        )
        assert 'value="Cancel it"' in text(chief.get(page(siren)))
        assert "Wakes everyone up." in text(chief.get(ADD))
        assert "Only for those" not in text(chief.get(ADD))

    def test_buttons_take_only_posts_with_a_csrf_token(self, operator: Client) -> None:
        broadcast = saved(operator)
        for name in ("send", "schedule", "cancel"):
            assert operator.get(page(broadcast, name)).status_code == 405
        strict = Client(enforce_csrf_checks=True)
        strict.force_login(User.objects.get(username="ops"))
        assert strict.post(page(broadcast, "send")).status_code == 403

    def test_the_audit_log_is_to_read_only(self, operator: Client) -> None:
        saved(operator)
        entry = AuditEntry.objects.get()
        url = reverse("admin:rooms_app_auditentry_change", args=[entry.pk])
        assert "created" in text(operator.get(url))
        for forbidden in (url, reverse("admin:rooms_app_auditentry_add")):
            assert operator.post(forbidden, {"action": "x"}).status_code == 403
        assert operator.post(reverse("admin:rooms_app_auditentry_delete", args=[entry.pk])).status_code == 403


class TestForm:
    """Message, audience and time."""

    @pytest.mark.parametrize(
        ("values", "field"),
        [
            ({"message-number": "many"}, "message-number"),
            ({"rooms": ""}, "rooms"),
            ({"rooms": "x" * 300}, "rooms"),
            ({"rooms": "*"}, "rooms"),
            ({"audience": "users"}, "users"),
            ({"send_at": "2020-01-01T00:00"}, "send_at"),
            ({"send_at": "9999-12-31T23:59"}, "send_at"),
            ({"audience": "users", "users": "abc"}, "users"),
            ({"audience": "users", "users": "9" * 40}, "users"),
        ],
    )
    def test_what_is_wrong_is_said_beside_its_field(self, operator: Client, values: dict[str, str], field: str) -> None:
        """Linked to it for screen readers; what was written stays, and nothing is stored."""
        answer = text(operator.post(FORM, {**VALID, **values}))
        assert "errornote" in answer and f'id="id_{field}_error"' in answer
        described = answer.partition(f'id="id_{field}_error"')[2] + answer.partition(f'id="id_{field}_error"')[0]
        assert f"id_{field}_error" in described.replace(f'id="id_{field}_error"', "")
        assert "hello" in answer
        assert not Broadcast.objects.exists()

    def test_an_edit_makes_it_a_draft_again_with_the_new_values(self, operator: Client) -> None:
        later = timezone.now() + timedelta(hours=1)
        broadcast = saved(operator, send_at=f"{later:%Y-%m-%dT%H:%M}")
        press(operator, broadcast, "schedule")
        form = text(operator.get(page(broadcast, "edit")))
        assert 'value="7"' in form and "hello" in form and "a\nb" in form and f"{later:%Y-%m-%dT%H:%M}" in form
        seen = {"revision": broadcast.revision}
        operator.post(page(broadcast, "edit"), {**VALID, **seen, "message-number": "8", "audience": "everyone"})
        broadcast.refresh_from_db()
        assert (broadcast.state, broadcast.payload["number"], broadcast.send_at) == (State.DRAFT, 8, None)
        assert (broadcast.audience, broadcast.rooms) == ("everyone", [])
        actions = AuditEntry.objects.order_by("id").values_list("action", flat=True)
        assert list(actions) == ["created", "scheduled", "edited"]

    def test_users_that_are_not_named_are_counted(self, operator: Client) -> None:
        """What she looks at is what she sends."""
        broadcast = Broadcast.objects.create(message_type="tests.note", payload={}, audience="users")
        broadcast.users.set([User.objects.create(username=f"many{number}") for number in range(23)])
        assert "many19 and 3 more" in text(operator.get(page(broadcast)))

    def test_what_is_on_its_way_is_not_edited(self, operator: Client) -> None:
        """Nor was it sent twice when the page was old."""
        broadcast = saved(operator)
        press(operator, broadcast, "send")
        answer = operator.post(page(broadcast, "edit"), {**VALID, "message-number": "8"}, follow=True)
        assert "be changed any more" in text(answer)
        assert "somebody else was first" in press(operator, broadcast, "send")
        broadcast.refresh_from_db()
        assert broadcast.payload["number"] == 7


class TestTwoOperators:
    """What one has looked at is what she sends."""

    @pytest.mark.parametrize("button", ["send", "schedule"])
    def test_what_was_changed_since_she_looked_is_not_sent(self, operator: Client, button: str) -> None:
        """She is told, and sees what it is now."""
        later = timezone.now() + timedelta(hours=1)
        seen = saved(operator, send_at=f"{later:%Y-%m-%dT%H:%M}")
        other = signed_in("other", "send_broadcast")
        changed = {**VALID, "revision": seen.revision, "message-text": "never seen", "audience": "everyone"}
        assert other.post(page(seen, "edit"), changed).status_code == 302
        answer = press(operator, seen, button)
        assert "It was changed meanwhile" in answer and "never seen" in answer
        seen.refresh_from_db()
        assert seen.state == State.DRAFT

    def test_of_two_edits_at_once_the_second_is_not_lost_and_overwrites_nothing(self, operator: Client) -> None:
        """What she wrote is shown again; saved once more, it stands."""
        broadcast = saved(operator)
        other = signed_in("other", "send_broadcast")
        seen = {**VALID, "revision": broadcast.revision}
        other.post(page(broadcast, "edit"), {**seen, "message-text": "first"})
        answer = text(operator.post(page(broadcast, "edit"), {**seen, "message-text": "second"}))
        assert "It was changed meanwhile" in answer and "second" in answer
        broadcast.refresh_from_db()
        assert (broadcast.payload["text"], broadcast.revision) == ("first", 2)
        assert 'name="revision" value="2"' in answer
        again = {**seen, "revision": 2, "message-text": "second"}
        assert operator.post(page(broadcast, "edit"), again).status_code == 302
        broadcast.refresh_from_db()
        assert broadcast.payload["text"] == "second"

    def test_a_button_of_no_known_revision_does_nothing(self, operator: Client) -> None:
        broadcast = saved(operator)
        for revision in ("", "x", "9" * 30):
            operator.post(page(broadcast, "send"), {"revision": revision})
        broadcast.refresh_from_db()
        assert broadcast.state == State.DRAFT


class TestOddInput:
    """A sentence beside the field, and no error page."""

    def test_a_message_class_without_a_form_is_said_to_have_none(self, operator: Client) -> None:
        answer = text(operator.get(f"{ADD}?type=tests.formless", follow=True))
        assert "The type tests.formless has no form" in answer

    def test_what_no_database_can_hold_is_refused(self, operator: Client) -> None:
        """PostgreSQL takes no NUL, not even escaped in JSON."""
        listed = {**VALID, "message-extra": r'{"a": ["\u0000"]}'}
        assert "such as NUL" in text(operator.post(f"{ADD}?type=tests.loose", listed))
        assert "the character NUL" in text(operator.post(FORM, {**VALID, "rooms": "a\0b"}))
        assert not Broadcast.objects.exists()

    def test_one_message_goes_to_so_many_rooms_at_most(self, operator: Client) -> None:
        """Each copy names all of them."""
        rooms = "\n".join(f"room-{number}" for number in range(1_001))
        assert "1,001 rooms: one message goes to 1,000 at most" in text(operator.post(FORM, {**VALID, "rooms": rooms}))

    def test_what_a_teams_own_search_raises_is_said_on_the_page(
        self, operator: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It can still be cancelled."""

        def search(*args: Any) -> Any:
            raise ZeroDivisionError("theirs")

        monkeypatch.setattr(UserAdmin, "get_search_results", search)
        broadcast = saved(operator, audience="users", user_query="ann")
        answer = text(operator.get(page(broadcast)))
        assert "ZeroDivisionError: theirs" in answer and "Send now" not in answer and "Cancel it" in answer

    def test_a_message_that_is_too_large_can_not_be_sent(self, operator: Client, settings: Any) -> None:
        broadcast = saved(operator)
        settings.ROOMS = {**settings.ROOMS, "max_message_bytes": 10}
        answer = text(operator.get(page(broadcast)))
        assert "max_message_bytes" in answer and "Send now" not in answer

    def test_one_whose_class_is_gone_can_be_cancelled(self, operator: Client) -> None:
        broadcast = Broadcast.objects.create(message_type="gone.message", payload={}, state=State.SCHEDULED)
        assert "Cancelled" in press(operator, broadcast, "cancel")

    def test_one_whose_sender_died_in_the_middle_can_be_sent_again(self, operator: Client) -> None:
        """Where no scheduler takes it up."""
        broadcast = saved(operator)
        died = timezone.now() - timedelta(seconds=1)
        Broadcast.objects.update(state=State.SENDING, claimed_until=died)
        assert "Send now" in text(operator.get(page(broadcast)))
        assert "Sent." in press(operator, broadcast, "send")


class TestPreviewAndSend:
    """What is shown is what goes."""

    async def test_a_client_gets_the_very_frame_of_the_preview(self, layer: dict[str, object]) -> None:
        """On each channel layer; where there is history, it also has an id."""
        from asgiref.sync import sync_to_async

        operator = await sync_to_async(signed_in)("ops", "send_broadcast")
        broadcast = await sync_to_async(saved)(operator)
        preview = text(await sync_to_async(operator.get)(page(broadcast)))
        frame = '{"MESSAGE_ID":"tests.note","message":{"number":7,"text":"hello"},"room":"a"}'
        assert escape(frame) in preview
        assert escape(json.dumps(json.loads(frame), indent=2)) in preview
        async with clients("/rooms/a,b", "/rooms/other") as (member, stranger):
            answer = await sync_to_async(press)(operator, broadcast, "send")
            got = await member.frame()
            got.pop("id", None)
            assert got == json.loads(frame)
            assert await member.silent() and await stranger.silent()
        await broadcast.arefresh_from_db()
        assert broadcast.state == State.SENT and broadcast.sent_by_id is not None
        assert "Send now" not in answer and "Edit" not in answer and "Cancel it" not in answer

    def test_of_very_many_users_only_the_first_are_counted(self, operator: Client) -> None:
        """10,000 are still counted; with one more it says that there are more."""
        User.objects.bulk_create(User(username=f"many{number}") for number in range(10_000))
        broadcast = saved(operator, audience="users", user_query="many")
        assert '<dd id="reach">at most 0</dd>' in text(operator.get(page(broadcast)))
        User.objects.bulk_create(User(username=f"manymore{number}") for number in range(500))
        shown = text(operator.get(page(broadcast)))
        assert '<dd id="reach">more than 0: only the first 10,000 users are counted</dd>' in shown

    def test_with_redis_away_it_says_so_and_can_be_sent_again(self, operator: Client, settings: Any) -> None:
        url = f"redis://127.0.0.1:{free_port()}/0"
        broadcast = saved(operator)
        working = settings.CHANNEL_LAYERS
        settings.CHANNEL_LAYERS = {"default": channel_layer("rooms", url)}
        with provide_ws_manager(ChannelLayerManager()):
            assert "unknown" in text(operator.get(page(broadcast)))
            failed = press(operator, broadcast, "send")
        assert "Not sent" in failed and "Send again" in failed and "The last attempt failed" in failed
        settings.CHANNEL_LAYERS = working
        assert "Send again" not in press(operator, broadcast, "send")
        actions = AuditEntry.objects.order_by("id").values_list("action", flat=True)
        assert list(actions) == ["created", "failed", "retried", "sent"]

    @pytest.mark.parametrize(
        ("values", "said"),
        [
            ({"message_type": "gone.message"}, "No message class has the MESSAGE_ID"),
            ({"payload": {"number": "many"}}, "no longer fits: number"),
            ({"audience": "users", "user_query": "nobody"}, "Nobody"),
        ],
    )
    def test_what_can_not_be_sent_says_why_and_has_no_button(
        self, operator: Client, values: dict[str, Any], said: str
    ) -> None:
        """Its class is gone or has changed: a sentence, not an error page, wherever one clicks."""
        broadcast = Broadcast.objects.create(**{"message_type": "tests.note", "payload": {"number": 1}, **values})
        answer = text(operator.get(page(broadcast)))
        assert said in answer and "Send now" not in answer
        for name in ("edit", "send", "schedule"):
            assert operator.post(page(broadcast, name), follow=True).status_code == 200
        assert operator.get(page(broadcast, "edit"), follow=True).status_code == 200

    def test_an_unknown_type_or_broadcast_is_no_error_page(self, operator: Client) -> None:
        answer = operator.get(f"{ADD}?type=gone.message", follow=True)
        assert "No message class has the MESSAGE_ID" in text(answer)
        assert operator.get("/admin/rooms_app/broadcast/no-uuid/change/").status_code == 404

    def test_nothing_is_deleted(self) -> None:
        """Not even by a superuser: what was not sent can be cancelled."""
        client = Client()
        client.force_login(User.objects.create_superuser("root"))
        broadcast = saved(client)
        assert client.post(page(broadcast, "delete"), {"post": "yes"}).status_code == 403
        assert "delete_selected" not in text(client.get(reverse("admin:rooms_app_broadcast_changelist")))
        assert "Nobody gets it" in press(client, broadcast, "cancel")


@pytest.mark.urls(__name__)
def test_the_action_of_a_teams_own_admin_leads_to_the_form_with_the_rooms() -> None:
    """Only for who may send; on an admin site of the team's own, too."""
    client = signed_in("ops", "send_broadcast", "view_user")
    chosen = {"action": "notify_rooms", "_selected_action": [str(User.objects.get().pk)]}
    answer = client.post("/admin/auth/user/", chosen, follow=True)
    assert "Choose a message type" in text(answer)
    form = text(client.get(f"{FORM}&notify=1"))
    assert "team-ops\nlobby" in form
    assert "team-ops" not in text(client.get(FORM))
    sent = client.post(f"{FORM}&notify=1", {**VALID, "rooms": "team-ops"}, follow=True)
    assert "Send now" in text(sent)
    other = signed_in("other", "view_user")
    assert "notify_rooms" not in text(other.get("/admin/auth/user/"))
