"""The benchmark: its statistics, its accounting of deliveries, and its short form on real servers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import report, wire
from benchmarks.__main__ import _chosen, _parse
from benchmarks.figures import percentile, quartiles, ratio_of_medians, rotated, size_for
from benchmarks.runner import STALLED
from benchmarks.scenarios import SHORT, with_counts
from benchmarks.streams import Room, Stream, Tally, audit, check, latencies
from benchmarks.systems import SYSTEMS

ROOT = Path(__file__).resolve().parent.parent


def frame(number: int, *, sender: int = 0) -> bytes:
    text = wire.rooms_text(wire.room_name(0), wire.stamp(number, sender=sender, overhead=wire.rooms_overhead()))
    return wire.HEADER + text.encode()


def room_of(*received: bytes) -> Room:
    """A room in which each connection has received these bytes, in small reads."""
    room = Room()
    for data in received:
        stream = Stream(room)
        room.streams.append(stream)
        for start in range(0, len(data), 150):
            stream.take(memoryview(data[start : start + 150]), start)
    return room


class TestFigures:
    def test_a_percentile_is_one_of_the_values(self) -> None:
        values = list(range(1, 101))
        assert [percentile(values, share) for share in (0.5, 0.99, 1)] == [50, 99, 100]
        assert percentile([7], 0.5) == 7
        assert quartiles([4, 1, 3, 2]) == (1, 3)

    def test_there_is_no_percentile_of_nothing(self) -> None:
        with pytest.raises(ValueError, match="no values"):
            percentile([], 0.5)

    def test_a_ratio_is_of_the_medians_and_lies_in_its_interval(self) -> None:
        found = ratio_of_medians([2, 4, 6, 400], [10, 10, 10, 10])
        assert found.value == 0.5
        assert found.low <= found.value <= found.high

    def test_a_disturbance_of_both_series_does_not_widen_the_interval(self) -> None:
        found = ratio_of_medians([1, 1, 1, 9, 1], [2, 2, 2, 18, 2])
        assert (found.low, found.value, found.high) == (0.5, 0.5, 0.5)

    def test_the_same_measurements_give_the_same_interval(self) -> None:
        series = [3.0, 1.0, 2.0, 5.0], [1.0, 2.0, 1.0, 2.0]
        assert ratio_of_medians(*series) == ratio_of_medians(*series)

    def test_a_burst_is_sized_by_a_smaller_one_within_bounds(self) -> None:
        assert size_for(1, measured_cpu=0.1, measured_messages=20, least=5, most=1000) == 200
        assert size_for(1, measured_cpu=100, measured_messages=20, least=5, most=1000) == 5
        assert size_for(1, measured_cpu=0, measured_messages=20, least=5, most=1000) == 1000

    def test_who_goes_first_changes_with_each_repetition(self) -> None:
        assert [rotated("abc", by) for by in range(4)] == [list("abc"), list("bca"), list("cab"), list("abc")]


class TestStreams:
    def test_the_texts_of_all_systems_have_one_size(self) -> None:
        ours = wire.rooms_text(wire.room_name(3), wire.stamp(9, overhead=wire.rooms_overhead()))
        stock = wire.stock_text(wire.stamp(9, overhead=wire.stock_overhead()))
        assert len(ours) == len(stock) == wire.TEXT_BYTES

    @pytest.mark.parametrize(
        ("numbers", "expected"),
        [
            ([0, 1, 2], Tally(delivered=3)),
            ([0, 2], Tally(delivered=2, lost=1)),
            ([0, 1, 1, 2], Tally(delivered=3, duplicated=1)),
            ([0, 2, 1], Tally(delivered=3, out_of_order=1)),
            ([0, 1, 2, 0], Tally(delivered=3, duplicated=1)),
            ([], Tally(lost=3)),
            ([0, 1, 2, 7], Tally(delivered=3, malformed=1)),
        ],
    )
    def test_what_is_lost_doubled_or_out_of_order_is_counted(self, numbers: list[int], expected: Tally) -> None:
        assert audit(numbers, 3) == expected

    def test_two_senders_have_an_order_each_and_none_between_them(self) -> None:
        other = wire.MOST_NUMBERS
        assert audit([other, 0, 1, other + 1], 2, 2) == Tally(delivered=4)
        assert audit([1, other, other + 1, 0], 2, 2) == Tally(delivered=4, out_of_order=1)

    def test_connections_that_got_the_same_bytes_are_right(self) -> None:
        data = b"".join(map(frame, range(5)))
        assert check(room_of(data, data, data), 5) == Tally(delivered=15)

    def test_a_connection_that_missed_a_message_is_found_among_others(self) -> None:
        frames = [frame(number) for number in range(5)]
        whole, gap = b"".join(frames), b"".join(frames[:2] + frames[3:])
        assert check(room_of(whole, gap, whole), 5) == Tally(delivered=14, lost=1)
        assert check(room_of(gap, whole, whole), 5) == Tally(delivered=14, lost=1)

    def test_a_connection_that_stopped_early_has_lost_the_rest(self) -> None:
        data = b"".join(map(frame, range(5)))
        assert check(room_of(data, data[: 3 * wire.FRAME_BYTES]), 5) == Tally(delivered=8, lost=2)

    def test_a_close_frame_in_between_is_seen(self) -> None:
        frames = [frame(number) for number in range(2)]
        with_close = frames[0] + b"\x88\x02\x03\xe8" + frames[1]
        assert check(room_of(b"".join(frames), with_close), 2) == Tally(delivered=4, malformed=1)

    def test_half_a_frame_is_no_delivery(self) -> None:
        assert check(room_of(frame(0) + frame(1)[:50]), 2) == Tally(delivered=1, lost=1, malformed=1)

    def test_each_delivery_has_its_latency(self) -> None:
        data = frame(0) + frame(1)
        room = Room()
        stream = Stream(room)
        room.streams.append(stream)
        sent = [wire.read_stamp(data[: wire.FRAME_BYTES]), wire.read_stamp(data[wire.FRAME_BYTES :])]
        assert sent[0] is not None and sent[1] is not None
        at = sent[1][1] + 1_000
        stream.take(memoryview(data), at)
        assert latencies(room) == ([at - sent[0][1], 1_000], at - sent[0][1])


class TestReport:
    FOUND: dict[str, Any] = {
        **dict.fromkeys(("lost", "duplicated", "out_of_order", "malformed", "ended"), 0),
        "due": 10,
        "sends": 10,
        "seconds": 1,
        "redis_commands": 10,
        "subscriptions": 2,
    }

    def problems(self, **changes: Any) -> list[str]:
        return list(report.problems({"A": {"rooms-daphne": [{**self.FOUND, **changes}]}}, SHORT))

    def test_right_counts_are_no_problem(self) -> None:
        assert self.problems() == []

    @pytest.mark.parametrize(
        "changes",
        [
            {"lost": 1},
            {"redis_commands": 20},
            {"redis_commands": 9},
            {"subscriptions": 500},
            {"subscriptions": 3},
            {"connect_commands": 14},
        ],
    )
    def test_a_wrong_count_is(self, changes: dict[str, int]) -> None:
        assert len(self.problems(**changes)) == 1

    def test_what_stock_layers_lose_fails_nothing(self) -> None:
        lossy = {"stock-daphne-classic": [{**self.FOUND, "lost": 5}]}
        assert list(report.problems({"A": lossy}, SHORT)) == []

    def test_what_is_lost_beside_a_stalled_reader_fails(self) -> None:
        beside = {"rooms-daphne" + STALLED: [{**self.FOUND, "lost": 5}]}
        assert len(list(report.problems({"G": beside}, SHORT))) == 1

    def test_what_another_part_of_a_repetition_lost_counts_too(self) -> None:
        found = with_counts(self.FOUND, {**self.FOUND, "lost": 5, "due": 99})
        assert (found["lost"], found["due"]) == (5, 10)

    @pytest.mark.parametrize(("slowest", "met"), [(50.0, True), (50.1, False)])
    def test_answers_during_a_burst_are_held_against_a_limit(self, slowest: float, met: bool) -> None:
        measured = {"A": {"rooms-daphne": [{"cpu_us": 1, "health_ms": found} for found in ([1.0, 2.0], [slowest])]}}
        verdicts = list(report.verdicts(measured))
        assert [(verdict["value"], verdict["met"]) for verdict in verdicts] == [(slowest, met)] * 2
        assert report.verdict_table(verdicts)[1][-1] == ("met" if met else "MISSED")

    def test_a_target_is_met_when_the_interval_touches_it(self) -> None:
        measured = {"A": {"rooms-daphne": [{"cpu_us": cost} for cost in (1, 2, 3)], "floor": [{"cpu_us": 10}] * 3}}
        (verdict,) = report.verdicts(measured)
        assert verdict["ratio"]["value"] == 0.2
        assert verdict["met"]


class TestCommandLine:
    def test_options_can_be_repeated(self) -> None:
        options = _parse(["--scenario", "A", "--scenario", "C", "--system", "floor", "--system", "rooms-daphne"])
        assert options.scenario == ["A", "C"]
        assert options.system == ["floor", "rooms-daphne"]

    def test_without_options_all_is_measured(self) -> None:
        options = _parse([])
        assert options.scenario is None
        assert {system.name for system in _chosen(options)} == {system.name for system in SYSTEMS}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_short_form_finds_all_counts_right(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--short", "--json", str(file)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads(file.read_text())
    assert document["problems"] == []
    assert set(document["scenarios"]) == set("ABCDEFG")
    for key in "ABCDEG":
        results = document["scenarios"][key]["results"]
        assert {"rooms-daphne", "rooms-uvicorn"} <= set(results)
        for found in results["rooms-daphne"] + results["rooms-uvicorn"]:
            assert found["delivered"] == found["due"] > 0
            assert found["cpu_us"] > 0
            assert found.get("health_ms", [1])
    assert set(document["scenarios"]["F"]["results"]["script"][0]) >= {"publish", "send_sync", "send"}
    assert document["machine"]["cores"]
