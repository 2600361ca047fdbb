"""The jitter test in its short form, and that it notices servers that are broken."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.app.jitter_app.sabotage import EARLY_LIVE, NO_REPAIR
from tests.jitter import Storm, run
from tests.jitter_report import judge


@pytest.mark.slow
@pytest.mark.parametrize(
    "storm",
    [Storm(), Storm(seconds=10, is_encrypted=True)],
    ids=["plain", "encrypted"],
)
async def test_every_message_arrives_in_the_storm(storm: Storm, tmp_path: Path) -> None:
    """Once, in order and without a reset, whatever is cut or killed."""
    report = await run(storm, tmp_path)
    print(report.table())
    assert report.problems() == []
    assert sum(client.counts["replayed"] for client in report.clients) > 0


@pytest.mark.slow
@pytest.mark.parametrize("sabotage", [NO_REPAIR, EARLY_LIVE])
async def test_a_broken_server_is_noticed(sabotage: str, tmp_path: Path) -> None:
    """One that does not repair, or delivers live messages before it has."""
    report = await run(Storm(seconds=6, sabotage=sabotage), tmp_path)
    print(report.table())
    assert not all(verdict.is_right for _, _, verdict in report.verdicts())


@pytest.mark.parametrize(
    ("received", "expected"),
    [
        ([3, 4, 5], ((), 0, 0)),
        # It came before the first that was due, and from then on all are.
        ([1, 3, 4, 5], ((2,), 0, 0)),
        ([4, 5], ((3,), 0, 0)),
        ([3, 4], ((5,), 0, 0)),
        ([], ((3, 4, 5), 0, 0)),
        ([3, 4, 4, 5, 3], ((), 2, 0)),
        ([3, 5, 4], ((), 0, 1)),
    ],
)
def test_the_verdict_names_each_failing(received: list[int], expected: tuple[tuple[int, ...], int, int]) -> None:
    """What is missing, what came twice, and what came after a later one."""
    verdict = judge(received, due_from=3, last=5)
    assert (verdict.missing, verdict.duplicates, verdict.disordered) == expected
    assert verdict.is_right is (expected == ((), 0, 0))
