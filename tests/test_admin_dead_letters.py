"""Dead letters and the outbox in the admin: what is shown, to whom, and that one is requeued once."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.db import connections, transaction
from django.test import Client
from django.utils import timezone

from rooms_app import carrying
from rooms_app.models import AuditEntry, DeadLetter, OutboxEntry
from rooms_app.relay import Stored, register_carrier, relay_due, store
from rooms_app.requeue import requeue
from tests.outbox_rows import BROKEN, KIND, Carried

pytestmark = pytest.mark.django_db(transaction=True)

LETTERS = "/admin/rooms_app/deadletter/"
ENTRIES = "/admin/rooms_app/outboxentry/"

Reason = DeadLetter.Reason
DEAD, REQUEUED = DeadLetter.State.DEAD, DeadLetter.State.REQUEUED


@pytest.fixture(autouse=True)
def no_bus() -> Any:
    """A process that can't carry bus messages, whatever other tests have imported: requeued ones stay in the outbox."""
    before = carrying._carriers.get("bus")
    carrying.forget_carrier("bus")
    yield
    if before is not None:
        register_carrier("bus", before)


def operator(name: str, *permissions: str) -> Client:
    user = User.objects.create(username=name, is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client = Client()
    client.force_login(user)
    return client


def letter(**values: Any) -> DeadLetter:
    delivery = {
        "id": "delivery-1",
        "message_id": "message-1",
        "topic": "user.activity",
        "handler": "shop.handlers.notify",
        "payload": '{"user_id":"7","action":"<b>bought</b>"}',
        "attempt": 6,
        "losses": 2,
        "waits": 3,
        "idempotency_key": None,
        "published_at": "2026-01-01T00:00:00Z",
    }
    values = {"delivery": delivery, "reason": Reason.RETRIES, "error": "Traceback …\nValueError: <i>no</i>", **values}
    return DeadLetter.objects.create(
        **{"topic": "user.activity", "handler": "shop.handlers.notify", "attempts": 6, **values}
    )


def page(client: Client, url: str, **query: str) -> str:
    answer = client.get(url, query)
    assert answer.status_code == 200, answer.status_code
    return str(answer.content.decode())


def do(client: Client, url: str, action: str, *rows: Any) -> str:
    answer = client.post(url, {"action": action, "_selected_action": [str(row.pk) for row in rows]}, follow=True)
    assert answer.status_code == 200
    return str(answer.content.decode())


class TestDeadLetters:
    """A list, a page of each, and a button."""

    def test_who_has_no_permission_gets_403_and_who_may_view_has_no_button(self) -> None:
        """A superuser may all of it."""
        row = letter()
        url = f"{LETTERS}{row.pk}/"
        nobody, viewer = operator("nobody", "send_broadcast"), operator("viewer", "view_deadletter")
        for address in (LETTERS, f"{url}change/", f"{url}requeue/"):
            assert nobody.get(address).status_code == 403
        assert nobody.post(f"{url}requeue/").status_code == viewer.post(f"{url}requeue/").status_code == 403
        assert LETTERS not in nobody.get("/admin/").content.decode()
        assert "requeue_selected" not in page(viewer, LETTERS) and 'value="Requeue"' not in page(
            viewer, f"{url}change/"
        )
        boss = Client()
        boss.force_login(User.objects.create_superuser("boss"))
        assert "requeue_selected" in page(boss, LETTERS) and 'value="Requeue"' in page(boss, f"{url}change/")
        assert boss.get(f"{url}requeue/").status_code == boss.post(f"{url}change/").status_code == 405
        assert boss.get(f"{LETTERS}add/").status_code == boss.get(f"{url}delete/").status_code == 403
        row.refresh_from_db()
        assert row.state == DEAD

    def test_the_page_shows_all_that_is_known_of_it(self) -> None:
        """As text: payloads and errors hold what clients have sent."""
        client = operator("ops", "requeue_dead_letter")
        shown = page(client, f"{LETTERS}{letter().pk}/change/")
        for part in (
            "user.activity",
            "shop.handlers.notify",
            "Failed at every try",
            "6, and 2 workers that died",
            "message-1",
            "&quot;action&quot;: &quot;&lt;b&gt;bought&lt;/b&gt;&quot;",
            "ValueError: &lt;i&gt;no&lt;/i&gt;",
        ):
            assert part in shown
        assert "<b>" not in shown and "<script>" not in shown and " style=" not in shown.split('id="content-main"')[1]
        for odd in ("no delivery", 7, {}, {"payload": "no JSON"}):
            assert "Payload" in page(client, f"{LETTERS}{letter(delivery=odd).pk}/change/")

    def test_the_list_is_filtered_and_searched(self) -> None:
        client = operator("ops", "requeue_dead_letter")
        letter(handler="a.first", reason=Reason.PAYLOAD)
        letter(handler="b.second", reason="new", error="ZeroDivisionError")
        assert "Its payload does not fit" in page(client, LETTERS) and "b.second" in page(client, LETTERS)
        for query in ({"q": "ZeroDiv"}, {"reason": "new"}, {"handler": "b.second"}):
            rows = page(client, LETTERS, **query).split('id="result_list"')[1].split("</table>")[0]
            assert "b.second" in rows and "a.first" not in rows

    def test_the_button_puts_it_into_the_outbox_as_if_it_were_new(self) -> None:
        """With who did it, and when; a second press says that it was done."""
        client, row = operator("ops", "requeue_dead_letter"), letter()
        said = client.post(f"{LETTERS}{row.pk}/requeue/", follow=True).content.decode()
        assert "Requeued. A running worker" in said and "<td>requeued</td>" in said
        entry = OutboxEntry.objects.get()
        assert (entry.kind, entry.state) == ("bus", OutboxEntry.State.WAITING)
        assert entry.body == {**row.delivery, "attempt": 1, "losses": 0, "waits": 0}
        row.refresh_from_db()
        assert (row.state, str(row.requeued_by), row.requeued_at is not None) == (REQUEUED, "ops", True)
        again = client.post(f"{LETTERS}{row.pk}/requeue/", follow=True).content.decode()
        assert "somebody else was first" in again and 'value="Requeue"' not in again
        assert (OutboxEntry.objects.count(), AuditEntry.objects.count()) == (1, 1)

    def test_a_selection_is_requeued_each_by_itself(self) -> None:
        client = operator("ops", "requeue_dead_letter")
        fresh, done, odd = letter(), letter(state=REQUEUED), letter(delivery=7)
        unreadable = letter(delivery={"version": 9}, topic="", handler="")
        said = do(client, LETTERS, "requeue_selected", fresh, done, odd, unreadable)
        assert "Requeued: 1." in said and "Somebody else was first: 1." in said and said.count("no delivery") == 2
        assert [entry.key for entry in OutboxEntry.objects.all()] == [f"requeued:{fresh.pk}"]
        assert AuditEntry.objects.get().actor_name == "ops"

    def test_two_operators_at_once_requeue_it_once(self) -> None:
        """Each in a thread and database connection of her own."""
        row, barrier, won = letter(), threading.Barrier(4), list[bool]()

        def press() -> None:
            barrier.wait(timeout=10)
            try:
                won.append(requeue(row.pk, None))
            finally:
                connections.close_all()

        threads = [threading.Thread(target=press) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=30)
        assert sorted(won) == [False, False, False, True]
        assert (OutboxEntry.objects.count(), AuditEntry.objects.count()) == (1, 1)

    def test_what_is_rolled_back_is_not_requeued(self) -> None:
        row = letter()
        with transaction.atomic():
            assert requeue(row.pk, None)
            transaction.set_rollback(True)
        row.refresh_from_db()
        assert (row.state, OutboxEntry.objects.count(), AuditEntry.objects.count()) == (DEAD, 0, 0)


class TestOutbox:
    """What waits, and what failed."""

    def test_it_lists_what_waits_and_what_failed_and_has_failed_ones_tried_again(self, carried: Carried) -> None:
        carried.errors["broken"] = BROKEN
        store(KIND, [Stored(key="broken", body={"of": "broken"}), Stored(key="gone", body={"of": "gone"})])
        store(KIND, [Stored(key="later", body={"of": "later"}, due_at=timezone.now().replace(year=2100))])
        store("elsewhere", [Stored(key="x", body={"message_type": "chat.message", "message": '{"content": "<b>"}'})])
        client = operator("ops", "requeue_dead_letter")
        rows = page(client, ENTRIES).split('id="result_list"')[1].split("</table>")[0]
        assert "This can never leave." in rows and "chat.message" in rows and "2100" in rows
        assert (OutboxEntry.objects.count(), rows.count("<tr>")) == (4, 1 + 3)
        rows = page(client, ENTRIES, state="failed").split('id="result_list"')[1].split("</table>")[0]
        assert "This can never leave." in rows and rows.count("<tr>") == 2
        broken, _, waiting, odd = OutboxEntry.objects.order_by("id")
        shown = page(client, f"{ENTRIES}{odd.pk}/change/")
        assert json.dumps({"content": "<b>"})[1:-1].replace('"', "&quot;").replace("<b>", "&lt;b&gt;") in shown
        carried.errors.clear()
        assert relay_due() == 0
        said = do(client, ENTRIES, "try_again_selected", broken, waiting)
        assert "They are tried again: 1." in said and "They have not failed, or somebody else was first: 1." in said
        assert (relay_due(), carried.keys) == (1, ["gone", "broken"])
        assert [(entry.action, entry.details) for entry in AuditEntry.objects.all()] == [
            ("requeued", {"error": "This can never leave."})
        ]

    def test_who_has_no_permission_gets_403_and_who_may_view_tries_nothing_again(self, carried: Carried) -> None:
        carried.errors["broken"] = BROKEN
        store(KIND, [Stored(key="broken", body={"of": "broken"})])
        nobody, viewer = operator("nobody", "send_broadcast"), operator("viewer", "view_outboxentry")
        assert nobody.get(ENTRIES).status_code == 403
        row = OutboxEntry.objects.get()
        do(viewer, ENTRIES, "try_again_selected", row)
        row.refresh_from_db()
        assert row.state == OutboxEntry.State.FAILED
        url = f"{ENTRIES}{row.pk}/"
        assert viewer.post(f"{url}change/", {"state": "waiting"}).status_code == 403
        assert viewer.post(f"{url}delete/").status_code == 403
