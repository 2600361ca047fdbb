"""Whom a broadcast goes to: in parts, of which none is sent twice and nobody is left out, whatever fails between."""

from __future__ import annotations

import threading

from django.contrib.auth.models import User
from django.db import connections

from rooms_app import broadcasts
from tests import test_broadcasts
from tests.test_broadcasts import Recorder, State, note, uses_database

recorder = test_broadcasts.recorder


@uses_database
class TestAudience:
    """Whom it goes to."""

    def test_users_are_found_by_choice_and_by_the_admins_search_if_they_are_active(self, recorder: Recorder) -> None:
        chosen = User.objects.create(username="anna")
        found = User.objects.create(username="bert", email="bert@example.org")
        User.objects.create(username="gone", email="gone@example.org", is_active=False)
        User.objects.create(username="other")
        broadcast = note(audience="users", user_query="example.org")
        broadcast.users.add(chosen)
        assert broadcasts.send_now(broadcast.pk, chosen)
        assert [rooms for rooms, _ in recorder.sent] == [[f"user-{chosen.pk}", f"user-{found.pk}"]]

    def test_many_users_are_sent_to_in_parts_with_keys_of_their_own(self, recorder: Recorder) -> None:
        User.objects.bulk_create(User(username=f"many{number}") for number in range(450))
        broadcast = note(audience="users", user_query="many")
        assert broadcasts.send_now(broadcast.pk, None)
        assert [len(rooms) for rooms, _ in recorder.sent] == [200, 200, 50]
        assert len({room for rooms, _ in recorder.sent for room in rooms}) == 450
        assert len({key for _, key in recorder.sent}) == 3
        broadcast.refresh_from_db()
        assert broadcast.state == State.SENT

    def test_a_retry_goes_on_where_it_failed_whoever_matches_by_then(self, recorder: Recorder) -> None:
        """One who ceases to match, or begins to, moves nobody else into a part that was sent, or out of it."""
        User.objects.bulk_create(User(username=f"many{number:03}", is_active=number != 7) for number in range(450))
        broadcast = note(audience="users", user_query="many")
        recorder.fails_after = 1
        assert broadcasts.send_now(broadcast.pk, None)
        broadcast.refresh_from_db()
        assert broadcast.state == State.FAILED
        ((first, _),) = recorder.sent
        (perhaps_sent,) = recorder.refused
        # Two of the part that was sent and of the one that perhaps was, the other way round from before.
        User.objects.filter(username__in=["many007"]).update(is_active=True)
        User.objects.filter(username__in=["many008", "many009", "many300"]).update(is_active=False)
        recorder.fails_after = None
        assert broadcasts.send_now(broadcast.pk, None)
        again = recorder.sent[1]
        assert again[1] == perhaps_sent
        got = [room for rooms, _ in recorder.sent for room in rooms]
        assert len(got) == len(set(got)) == 448
        assert set(first).isdisjoint(again[0])
        missing = {f"user-{user.pk}" for user in User.objects.all()} - set(got)
        assert missing == {f"user-{user.pk}" for user in User.objects.filter(username__in=["many007", "many300"])}
        broadcast.refresh_from_db()
        assert (broadcast.state, broadcast.sent_up_to) == (State.SENT, "")

    def test_others_may_write_while_it_is_sent(self, recorder: Recorder) -> None:
        """A query that is left open would have SQLite refuse the next note of how far it has come."""
        User.objects.bulk_create(User(username=f"many{number}") for number in range(450))
        broadcast = note(audience="users", user_query="many")

        def write() -> None:
            try:
                User.objects.create(username=f"other{len(recorder.sent)}")
            finally:
                connections.close_all()

        def write_in_another_thread() -> None:
            thread = threading.Thread(target=write)
            thread.start()
            thread.join(timeout=30)

        recorder.on_send = write_in_another_thread
        assert broadcasts.send_now(broadcast.pk, None)
        broadcast.refresh_from_db()
        assert (broadcast.state, len(recorder.sent)) == (State.SENT, 3)
        assert User.objects.filter(username__startswith="other").count() == 3

    def test_what_is_edited_after_a_failure_goes_to_all(self, recorder: Recorder) -> None:
        """Those who have got it, too: it says something else now."""
        User.objects.bulk_create(User(username=f"many{number}") for number in range(450))
        broadcast = note(audience="users", user_query="many")
        recorder.fails_after = 2
        assert broadcasts.send_now(broadcast.pk, None)
        recorder.fails_after = None
        assert broadcasts.edit(broadcast.pk, 1, payload={"number": 2})
        assert broadcasts.send_now(broadcast.pk, None)
        assert len({room for rooms, _ in recorder.sent[2:] for room in rooms}) == 450
