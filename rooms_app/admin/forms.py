"""The part of the form that is the same for all messages: whom it goes to, and when."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin
from django.contrib.admin.widgets import AutocompleteSelectMultiple, ManyToManyRawIdWidget
from django.contrib.auth import get_user_model
from django.http import HttpRequest
from django.utils import timezone

from rooms_app.exceptions import InvalidRoom
from rooms_app.models import Broadcast
from rooms_app.rooms import EVERYONE, MAX_ROOMS_PER_SEND, check_room

Audience = Broadcast.Audience

_DATETIME = "%Y-%m-%dT%H:%M"
_LONGEST_WAIT = timedelta(days=3653)


class RoomsField(forms.CharField):
    """Room names, one on each line, as a list."""

    widget = forms.Textarea(attrs={"rows": 3, "cols": 40, "spellcheck": "false"})

    def prepare_value(self, value: Any) -> Any:
        return "\n".join(value) if isinstance(value, list) else value

    def to_python(self, value: Any) -> Any:
        lines = [line.strip() for line in (value or "").splitlines()]
        rooms = list(dict.fromkeys(line for line in lines if line))
        if len(rooms) > MAX_ROOMS_PER_SEND:
            raise forms.ValidationError(
                f"{len(rooms):,} rooms: one message goes to {MAX_ROOMS_PER_SEND:,} at most. Send it in parts."
            )
        for room in rooms:
            try:
                check_room(room)
            except InvalidRoom as error:
                raise forms.ValidationError(f"{room[:40]!r}: {error}") from error
            if "\0" in room:
                raise forms.ValidationError(f"{room[:40]!r}: it holds the character NUL, which can't be stored.")
            if room == EVERYONE:
                raise forms.ValidationError(f'{EVERYONE!r} is every connection: choose "{Audience.EVERYONE.label}".')
        return rooms


if TYPE_CHECKING:
    UserChoiceField = forms.ModelMultipleChoiceField[Any]
else:
    UserChoiceField = forms.ModelMultipleChoiceField


class UsersField(UserChoiceField):
    """Users by their primary keys."""

    def clean(self, value: Any) -> Any:
        """The users. Django itself asks the database for what was sent, which fails for a number that is too big."""
        if wrong := _wrong_keys(value):
            raise forms.ValidationError(f"{wrong[0][:40]!r} is no user.")
        return super().clean(value)


def _wrong_keys(values: Sequence[Any] | None) -> list[str]:
    """Which of these can't be the primary key of a user."""
    pk = get_user_model()._meta.pk

    def is_wrong(value: Any) -> bool:
        try:
            pk.run_validators(pk.to_python(value))
        except forms.ValidationError:
            return True
        return False

    return [str(value) for value in values or () if is_wrong(value)]


def check_writable(rooms: Sequence[str]) -> None:
    """Raises `InvalidRoom` for rooms that the form can't show as they are: a name may hold a line break, say."""
    try:
        is_same = RoomsField().clean("\n".join(rooms)) == list(rooms)
    except forms.ValidationError as error:
        raise InvalidRoom(rooms, " ".join(error.messages)) from error
    if not is_same:
        raise InvalidRoom(
            rooms, "A name among them has a line break, or a space at its end: write to it by rooms_send."
        )


class DeliveryForm(forms.Form):
    """Whom a broadcast goes to, and when; `cleaned_data` holds the fields of a `Broadcast`."""

    audience = forms.ChoiceField(choices=Audience.choices, initial=Audience.EVERYONE, widget=forms.RadioSelect)
    rooms = RoomsField(required=False, help_text="For the audience “Rooms”: one on each line.")
    users = UsersField(
        queryset=None,
        required=False,
        label="Users by choice",
        help_text="For the audience “Users”. Only active ones get it.",
    )
    user_query = forms.CharField(
        required=False,
        max_length=255,
        label="Users by query",
        widget=forms.TextInput(attrs={"class": "vTextField"}),
        help_text="For the audience “Users”: whoever this finds in the list of users when it is sent.",
    )
    send_at = forms.DateTimeField(
        required=False,
        label="Send at",
        widget=forms.DateTimeInput(format=_DATETIME, attrs={"type": "datetime-local"}),
    )

    def __init__(self, *args: Any, request: HttpRequest, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        users = self.fields["users"]
        users.queryset = get_user_model()._default_manager.all()  # type: ignore[attr-defined]
        chosen = users.widget.value_from_datadict(self.data, self.files, self.add_prefix("users"))
        # The search field looks for what was chosen, and can't for what is no key.
        users.widget = _users_widget(request, can_search=not _wrong_keys(chosen))
        users.widget.choices = users.choices  # type: ignore[attr-defined]
        zone = timezone.get_current_timezone_name()
        self.fields["send_at"].help_text = f"Empty to send it yourself after the preview. Time zone: {zone}."

    def clean_send_at(self) -> Any:
        """A time to come, or none."""
        send_at = self.cleaned_data["send_at"]
        if send_at is not None and send_at <= timezone.now():
            raise forms.ValidationError("This time has passed. Leave it empty to send at once.")
        if send_at is not None and send_at > timezone.now() + _LONGEST_WAIT:
            # At the end of the calendar it is a year later in another time zone, which no database reads.
            raise forms.ValidationError("This is more than ten years away.")
        return send_at

    def clean(self) -> dict[str, Any]:
        """What the chosen audience needs is there; the rest is dropped, so that a page shows what counts."""
        data = self.cleaned_data
        audience = data.get("audience")
        if audience == Audience.ROOMS:
            if not data.get("rooms") and "rooms" not in self.errors:
                self.add_error("rooms", "Name at least one room.")
        else:
            data["rooms"] = []
        if audience == Audience.USERS:
            if not data.get("users") and not data.get("user_query") and not {"users", "user_query"} & set(self.errors):
                self.add_error("users", "Choose users, or write a query below.")
        else:
            data["users"], data["user_query"] = [], ""
        return data


def delivery_initial(broadcast: Broadcast) -> dict[str, Any]:
    """A broadcast as the form shows it."""
    names = ("audience", "rooms", "user_query", "send_at")
    initial = {name: getattr(broadcast, name) for name in names}
    return {**initial, "users": list(broadcast.users.values_list("pk", flat=True))}


def _users_widget(request: HttpRequest, *, can_search: bool) -> Any:
    """A search field where the project's user admin has one that this operator may use, else a list of keys."""
    field = Broadcast._meta.get_field("users")
    model = get_user_model()
    if can_search and admin.site.is_registered(model):
        user_admin = admin.site.get_model_admin(model)
        if user_admin.has_view_permission(request) and user_admin.get_search_fields(request):
            return AutocompleteSelectMultiple(field, admin.site)
    return ManyToManyRawIdWidget(field.remote_field, admin.site)
