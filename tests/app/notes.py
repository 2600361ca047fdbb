"""The notes that `asgi_outlets` sends; its tests make the same ones."""

import random

from tests.app.messages import Note


def note(number: int, size: int) -> Note:
    """A note of about so many bytes, which deflate can't make much smaller."""
    return Note(number=number, text=random.Random(number).randbytes(size // 2).hex())
