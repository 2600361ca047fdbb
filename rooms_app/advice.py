"""What to do about a channel layer that does not answer, for the log."""

from __future__ import annotations

from rooms_app.conf import rooms_settings
from rooms_app.embedded import hint, is_bundled, is_started


def advice() -> str:
    """How to start the bundled Redis, as a sentence with a space before it, where that is what is missing."""
    directory = rooms_settings().embedded_directory
    if directory is None or not is_bundled() or is_started(directory):
        return ""
    return f" {hint(directory)}"
