"""Forms made from Pydantic classes: what operators type is what the class says, or an error beside its field."""

from __future__ import annotations

import datetime
import enum
import json
import uuid
from decimal import Decimal
from html.parser import HTMLParser
from typing import Annotated, Any, Literal

import pytest
from django.http import QueryDict
from django.utils import timezone
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, HttpUrl, NaiveDatetime, model_validator

from rooms_app.forms import MessageForm, form_class


class Level(enum.Enum):
    LOW = "low"
    VERY_HIGH = "very-high"


class Address(BaseModel):
    street: str = Field(min_length=1, max_length=20)
    country: str = Field("CH", max_length=30)
    is_home: bool = True


class Line(BaseModel):
    sku: str = Field(min_length=2, max_length=10)
    amount: int = Field(1, ge=1)
    notes: list[str] = []


class Node(BaseModel):
    name: str = "x"
    children: list[Node] = []


class Rich(BaseModel):
    """One of each kind."""

    model_config = ConfigDict(validate_by_name=True)

    title: str = Field(min_length=1, max_length=200, description="What it says")
    body: str
    greeting: str = "hello"
    nick: str | None = None
    code: Annotated[str, Field(pattern="^[a-z]+$", max_length=9)] = "abc"
    number: int = Field(3, ge=3, lt=100)
    maybe: int | None = 5
    ratio: float = Field(0.5, allow_inf_nan=False)
    price: Decimal = Field(Decimal("1.5"), ge=1, le=1000, decimal_places=3)
    is_on: bool = True
    perhaps: bool | None = None
    kind: Literal["a", "b"] = "a"
    size: Literal[1, 2, 0] | None = None
    level: Level = Level.LOW
    day: datetime.date | None = None
    at: datetime.datetime | None = None
    local: NaiveDatetime | None = None
    clock: datetime.time | None = None
    key: uuid.UUID | None = None
    link: HttpUrl | None = None
    wait: datetime.timedelta | None = None
    other_name: str = Field("", alias="otherName", max_length=9)
    address: Address
    second: Address | None = None
    third: Address = Address(street="S")
    tags: list[str] = Field(default_factory=list)
    numbers: list[int] = [1]
    flags: list[bool] | None = None
    lines: list[Line] = Field(default=[], max_length=4)
    node: Node = Node()
    anything: Any = None
    table: dict[str, int] = {}
    either: int | list[str] = 0


class Controls(HTMLParser):
    """What a browser would post for some HTML, and each input's attributes by name."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.posted: dict[str, str] = {}
        self.attributes: dict[str, dict[str, str | None]] = {}
        self.ids: list[str] = []
        self._select = self._area = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        name = given.get("name") or ""
        self.ids += filter(None, [given.get("id")])
        if name:
            self.attributes[name] = given
        if tag == "input" and given.get("type") == "checkbox":
            if "checked" in given:
                self.posted[name] = "on"
        elif tag == "input":
            self.posted[name] = given.get("value") or ""
        elif tag == "select":
            self._select = name
        elif tag == "option" and ("selected" in given or self._select not in self.posted):
            self.posted[self._select] = given.get("value") or ""
        elif tag == "textarea":
            self._area = name
            self.posted[name] = ""

    def handle_data(self, data: str) -> None:
        if self._area:
            self.posted[self._area] += data

    def handle_endtag(self, tag: str) -> None:
        if tag == "textarea":
            # HTML drops the first line's end, and a browser sends each as two characters.
            self.posted[self._area] = self.posted[self._area].removeprefix("\n").replace("\n", "\r\n")
            self._area = ""


def posted(**values: str) -> dict[str, str]:
    """Data of a form that is valid but for what is given."""
    base = {"title": "t", "body": "b", "address-street": "Main"} | values
    return {f"message-{name.replace('__', '-')}": value for name, value in base.items()}


def rich(**values: str) -> MessageForm:
    return form_class(Rich)(data=posted(**values), prefix="message")


def valid(form: MessageForm) -> Any:
    assert form.is_valid(), form.errors.as_json()
    return form.message


def sent_back(message: BaseModel) -> Any:
    """The instance that comes of posting a message's form as it is rendered."""
    form = form_class(type(message))
    initial = form.initial_from(message.model_dump(mode="json"))
    html = form(initial=initial, prefix="message").as_fieldsets()
    return valid(form(data=Controls(html).posted, prefix="message"))


class TestErrors:
    def test_django_and_pydantic_errors_are_beside_their_fields_at_once(self) -> None:
        form = rich(title="x" * 201, number="2", address__street="", lines__3__sku="y", lines__3__amount="0")
        assert not form.is_valid()
        assert form.errors == {
            "title": ["String should have at most 200 characters"],
            "number": ["Ensure this value is greater than or equal to 3."],
            "address-street": ["This field is required."],
            "lines-3-sku": ["String should have at least 2 characters"],
            "lines-3-amount": ["Ensure this value is greater than or equal to 1."],
        }

    def test_an_error_of_a_list_is_on_its_fieldset(self) -> None:
        form = rich(**{f"lines__{row}__sku": "abc" for row in range(5)})
        assert not form.is_valid()
        assert list(form.errors) == ["lines"]
        assert "at most 4 items" in form.errors["lines"][0]
        assert 'aria-describedby="id_message-lines_helptext id_message-lines_error"' in form.as_fieldsets()

    def test_an_error_of_the_model_is_a_non_field_error_in_its_own_words(self) -> None:
        class Span(BaseModel):
            low: int
            high: int

            @model_validator(mode="after")
            def ordered(self) -> Span:
                if self.low > self.high:
                    raise ValueError("low is above high")
                return self

        form = form_class(Span)(data={"low": "3", "high": "1"})
        assert not form.is_valid()
        assert form.non_field_errors() == ["low is above high"]

    def test_an_error_inside_json_names_its_place(self) -> None:
        form = rich(table='{"a": "x"}', node__children='[{"name": 3}]')
        assert not form.is_valid()
        assert form.errors["table"] == ["a: Input should be a valid integer, unable to parse string as an integer"]
        assert form.errors["node-children"] == ["0.name: Input should be a valid string"]

    @pytest.mark.parametrize("text", ["{", "[" * 5000, "9" * 5000, '"\\ud800"', "1 2"])
    def test_bad_json_is_an_error(self, text: str) -> None:
        form = rich(anything=text)
        assert not form.is_valid()
        assert list(form.errors) == ["anything"]

    def test_what_was_typed_is_shown_again_and_tied_to_its_error_and_help(self) -> None:
        form = rich(title="<b>" + "x" * 300, number="many", second__country="DE", tags__7="kept")
        assert not form.is_valid()
        html = form.as_fieldsets()
        controls = Controls(html)
        for name in ("title", "number", "second-country", "tags-7"):
            assert controls.posted[f"message-{name}"] == form.data[f"message-{name}"]
        title = controls.attributes["message-title"]
        assert title["aria-invalid"] == "true"
        assert title["aria-describedby"] == "id_message-title_helptext id_message-title_error"
        assert {"id_message-title_helptext", "id_message-title_error"} < set(controls.ids)
        assert len(controls.ids) == len(set(controls.ids))
        assert "<b>" not in html

    def test_the_message_of_a_form_with_errors_is_refused(self) -> None:
        form = rich(number="2")
        assert not form.is_valid()
        with pytest.raises(ValueError, match="no message"):
            _ = form.message


class TestMeaning:
    def test_empty_means_none_or_the_default(self) -> None:
        message = valid(rich(greeting="", number="", maybe="", nick="", kind="", third__street="", third__is_home="on"))
        assert (message.greeting, message.number, message.maybe, message.nick) == ("hello", 3, None, None)
        assert (message.kind, message.second, message.third) == ("a", None, Address(street="S"))

    def test_what_is_not_sent_has_its_default(self) -> None:
        message = valid(rich())
        assert (message.maybe, message.tags, message.numbers, message.lines) == (5, [], [1], [])

    def test_rows_left_empty_are_no_items(self) -> None:
        message = valid(rich(tags__0="", tags__2="b", tags__9="c", lines__0__sku="", lines__1__sku="abc"))
        assert message.tags == ["b", "c"]
        assert [line.sku for line in message.lines] == ["abc"]

    def test_an_object_left_as_it_was_shown_is_none(self) -> None:
        controls = Controls(form_class(Rich)(prefix="message").as_fieldsets())
        message = valid(form_class(Rich)(data=controls.posted | posted(), prefix="message"))
        assert (message.second, message.lines, message.third) == (None, [], Address(street="S"))

    def test_a_date_and_time_is_in_the_current_time_zone(self) -> None:
        with timezone.override("Europe/Zurich"):
            message = valid(rich(at="2024-07-01T12:00"))
            assert not rich(at="2024-03-31T02:30").is_valid()
        assert message.at == datetime.datetime(2024, 7, 1, 10, tzinfo=datetime.UTC)

    def test_aliases_are_understood_in_payloads_and_errors(self) -> None:
        form = form_class(Rich)
        assert form.initial_from({"otherName": "x"})["other_name"] == "x"
        assert form.initial_from({"other_name": "y"})["other_name"] == "y"
        assert valid(rich(other_name="z")).other_name == "z"
        assert list(rich(other_name="x" * 10).errors) == ["other_name"]

    def test_the_validators_of_the_class_apply(self) -> None:
        class Upper(BaseModel):
            text: Annotated[str, AfterValidator(str.upper)] = Field(max_length=3)

        assert valid(form_class(Upper)(data={"text": "abc"})) == Upper(text="ABC")


class TestRendering:
    def test_labels_and_help_are_in_words(self) -> None:
        form = form_class(Rich)()
        helps = {name: str(form.fields[name].help_text) for name in ("title", "number", "price", "code")}
        assert helps == {
            "title": "What it says. 1 to 200 characters.",
            "number": "At least 3, less than 100.",
            "price": "1 to 1000.",
            "code": "At most 9 characters, pattern ^[a-z]+$.",
        }
        assert form.fields["other_name"].label == "Other name"
        assert [label for _, label in form.fields["level"].choices] == ["---------", "Low", "Very high"]  # type: ignore[attr-defined]

    def test_objects_are_fieldsets_and_lists_have_spare_rows(self) -> None:
        html = form_class(Rich)(prefix="message").as_fieldsets()
        names = Controls(html).posted
        assert "<legend>Address</legend>" in html
        assert {f"message-lines-{row}-sku" for row in range(3)} < set(names)
        assert "message-lines-3-sku" not in names
        assert "required" in Controls(html).attributes["message-address-street"]
        assert "required" not in Controls(html).attributes["message-second-street"]

    def test_what_a_browsers_picker_can_not_hold_is_a_plain_input(self) -> None:
        """It would show nothing, and so lose it."""
        html = form_class(Rich)(initial={"clock": "10:00:00.123456", "at": "2024-07-01T12:00:00.5"}).as_fieldsets()
        kinds = Controls(html).attributes
        assert [kinds[name]["type"] for name in ("clock", "at", "local")] == [
            "text",
            "datetime-local",
            "datetime-local",
        ]


moments = st.datetimes(timezones=st.just(datetime.UTC))
texts = st.text(st.characters(exclude_categories=["Cs", "Cc"], include_characters="\n"), max_size=8)
short = texts.map(lambda text: text.replace("\n", ""))
addresses = st.builds(Address, street=short.filter(bool), country=short, is_home=st.booleans())
lines = st.builds(Line, sku=short.filter(lambda text: len(text) > 1), amount=st.integers(1), notes=st.lists(texts))
nodes = st.recursive(
    st.builds(Node, name=texts, children=st.just([])),
    lambda inner: st.builds(Node, name=texts, children=st.lists(inner, max_size=2)),
    max_leaves=3,
)
json_values = st.recursive(st.none() | st.booleans() | st.integers() | texts, lambda each: st.lists(each, max_size=2))
messages = st.builds(
    Rich,
    title=texts.filter(bool),
    body=texts,
    greeting=texts,
    nick=st.none() | texts,
    number=st.integers(3, 99),
    maybe=st.none() | st.integers(),
    ratio=st.floats(allow_nan=False, allow_infinity=False),
    price=st.decimals(1, 1000, places=3),
    is_on=st.booleans(),
    perhaps=st.none() | st.booleans(),
    kind=st.sampled_from(["a", "b"]),
    size=st.sampled_from([None, 0, 1, 2]),
    level=st.sampled_from(Level),
    day=st.none() | st.dates(),
    at=st.none() | moments,
    local=st.none() | st.datetimes(),
    clock=st.none() | st.times(),
    key=st.none() | st.uuids(),
    wait=st.none() | st.timedeltas(datetime.timedelta(0), datetime.timedelta(400)),
    other_name=short,
    address=addresses,
    second=st.none() | addresses,
    third=addresses,
    tags=st.lists(texts, max_size=4),
    numbers=st.lists(st.integers(), max_size=3),
    flags=st.none() | st.lists(st.booleans(), max_size=3),
    lines=st.lists(lines, max_size=4),
    node=nodes,
    anything=json_values,
    table=st.dictionaries(texts, st.integers(), max_size=2),
    either=st.integers() | st.lists(texts, max_size=2),
)


def names_of(form: type[MessageForm]) -> list[str]:
    """Names of a form's inputs, and some that only look so."""
    return [*Controls(form(prefix="message").as_fieldsets()).attributes, "message-", "message-lines-x-sku", "message"]


junk = st.one_of(
    st.text(max_size=20),
    st.sampled_from(["", "0", "-1", "1e999", "NaN", "9" * 5000, "null", "[[", "{}", '{"a": null}', "on", "\x00"]),
    st.sampled_from(["2024-02-30", "9999-12-31T23:59", "0001-01-01T00:00", "24:00", "12:00+99:99", "1e400000"]),
)
# Shrinking so large a message takes minutes.
quick = settings(
    deadline=None,
    max_examples=50,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)


class TestAnyInput:
    @quick
    @given(message=messages, zone=st.sampled_from(["UTC", "Europe/Zurich", "America/St_Johns"]))
    def test_any_message_comes_back_equal_from_its_rendered_form(self, message: Rich, zone: str) -> None:
        with timezone.override(zone):
            assert sent_back(message) == message

    @pytest.mark.parametrize(
        "changes",
        [
            {"tags": [""], "nick": "", "greeting": "", "body": ""},
            {"numbers": [], "flags": []},
            {"second": {"street": "x", "country": "CH", "is_home": False}, "node": {"children": [{"children": [{}]}]}},
            {"at": "2024-10-27T01:30:00Z", "clock": "10:00:00.123456", "anything": "null", "maybe": None},
        ],
    )
    def test_a_message_with_empty_or_odd_values_comes_back_equal(self, changes: dict[str, Any]) -> None:
        message = Rich.model_validate({"title": "t", "body": "b", "address": {"street": "s"}} | changes)
        with timezone.override("Europe/Zurich"):
            assert sent_back(message) == message

    def test_an_optional_object_of_defaults_is_not_taken_for_none(self) -> None:
        class Outer(BaseModel):
            node: Node | None = None
            nodes: list[Node] = []

        for message in (Outer(), Outer(node=Node(), nodes=[Node(), Node(name="")])):
            assert sent_back(message) == message

    @quick
    @given(values=st.dictionaries(st.sampled_from(names_of(form_class(Rich))), junk, max_size=25), rest=st.booleans())
    def test_any_data_is_valid_or_has_errors(self, values: dict[str, str], rest: bool) -> None:
        data = QueryDict(mutable=True)
        data.update((posted() if rest else {}) | values)
        form = form_class(Rich)(data=data, prefix="message")
        if form.is_valid():
            assert isinstance(form.message, Rich)
            json.dumps(form.message.model_dump(mode="json"))
        else:
            assert form.errors
        form.as_fieldsets()
