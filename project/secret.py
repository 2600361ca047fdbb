"""A secret key for development, made once and kept out of version control."""

import os
import secrets
from pathlib import Path


def secret_key(directory: Path) -> str:
    """The key in `<directory>/secret_key`, made there if there is none; the same for processes that start together."""
    file = directory / "secret_key"
    directory.mkdir(mode=0o700, exist_ok=True)
    draft = directory / f"secret_key.{os.getpid()}"
    if not file.exists():
        draft.write_text(secrets.token_urlsafe(48))
        draft.chmod(0o600)
        try:
            os.link(draft, file)  # unlike a rename, it never replaces the key that another process has just read
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    return file.read_text()
