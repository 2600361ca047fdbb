"""Asks all hubs at once, and hears what they answer."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from rooms_app.cancelling import within
from rooms_app.conf import rooms_settings
from rooms_app.transport import group_send

T = TypeVar("T")


async def ask_hubs(
    layer: Any,
    message: Callable[[str], dict[str, Any]],
    parse: Callable[[Mapping[str, Any]], T | None],
    *,
    is_enough: Callable[[Sequence[T]], bool],
    patience: float,
) -> list[T]:
    """What hubs answer to a message, which is made with the channel that they answer on.

    Waits until the answers are enough, or for so many seconds. `parse` gives None for what is no answer. Raises what
    the layer raises, and `TimeoutError` where it does not take the message within `send_timeout`.
    """
    async with within(rooms_settings().send_timeout):
        channel = await layer.new_channel()
    await group_send(layer, message(channel))
    answers: list[T] = []
    with contextlib.suppress(TimeoutError):
        async with within(patience):
            while not is_enough(answers):
                answer = parse(await layer.receive(channel))
                if answer is not None:
                    answers.append(answer)
        # A receive that is cancelled has the layer forget the channel. Where the time is over, one was.
        async with within(0.001):
            while True:
                await layer.receive(channel)
    return answers
