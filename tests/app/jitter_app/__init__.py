"""What `tests.jitter` runs: servers with rooms open to everyone, and a sender of numbered messages."""
