"""What handlers take from the URL, and how they get on with one another."""

from __future__ import annotations

from tests.views import error


def test_annotated_url_parameters_are_validated_and_others_come_as_they_are(ask):
    uuid = "3f2a8f0e-2b1d-4d5e-9c3a-0f6c2f1f7a11"
    assert ask("GET", f"/parameters/7/{uuid}/7/7/").json() == [7, uuid, "7", "7", 1]
    assert ask("GET", f"/converted/7/{uuid}/7/7/").json() == [7, uuid, "7", "7", 2]


def test_wrong_url_parameters_are_a_400_that_names_each(ask):
    response = ask("GET", "/parameters/seven/nobody/7/7/")
    assert response.status_code == 400
    assert [(one["loc"], one["type"]) for one in response.json()["detail"]] == [
        (["number"], "int_parsing"),
        (["uuid"], "uuid_parsing"),
    ]


def test_a_room_name_that_is_too_long_is_a_400_before_the_body_is_looked_at(ask):
    for method in ("GET", "POST", "PUT"):
        problem = error(ask(method, f"/rooms/{'x' * 256}/", b"{"))
        assert (problem["loc"], problem["type"]) == (["room_id"], "string_too_long")
    assert ask("POST", f"/rooms/{'x' * 255}/", {"content": "hi"}).status_code == 201


def test_unnamed_groups_are_validated_in_order(ask):
    assert ask("GET", "/unnamed/7/word/").json() == [7, "word"]
    assert ask("PUT", "/unnamed/7/word/", {"kind": "ping"}).json() == [7, "word", "ping"]
    assert error(ask("GET", "/unnamed/seven/word/"))["loc"] == ["number"]


def test_a_handler_may_take_whatever_comes(ask):
    assert ask("GET", "/anything/x/").json() == ["x", {"a": 1}]


def test_handlers_may_call_one_another_and_those_they_override(ask):
    assert ask("PUT", "/delegating/1/", {"content": "hi"}).json() == "1: hi"
    assert ask("POST", "/inheriting/1/", {"content": "hi"}).json() == "1: HI"
    assert ask("PUT", "/inheriting/1/", {"content": "hi"}).json() == "1: HI"


def test_decorated_handlers_work(ask):
    response = ask("POST", "/decorated/", {"content": "hi"})
    assert (response.json(), "no-store" in response["Cache-Control"]) == ("hi", True)
    assert ask("POST", "/plainly/", {"content": "hi"}).json() == "hi"
    assert error(ask("POST", "/plainly/", {}))["loc"] == ["content"]


def test_head_and_options_work_as_in_drf(ask):
    response = ask("HEAD", "/rooms/1/")
    assert (response.status_code, response.content) == (200, b"")
    assert ask("HEAD", f"/rooms/{'x' * 256}/").status_code == 400
    response = ask("OPTIONS", "/rooms/1/")
    assert response.status_code == 200
    assert response["Allow"] == "GET, POST, PUT, HEAD, OPTIONS"
    assert response.json()["parses"] == ["application/json"]


def test_a_view_may_have_head_and_options_of_its_own(ask):
    assert ask("HEAD", "/options/")["X-Head"] == "own"
    assert ask("OPTIONS", "/options/").json() == ["own"]
