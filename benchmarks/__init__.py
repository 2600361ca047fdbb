"""The benchmark: real servers, a real Redis and real sockets, measured against a bare server in the same run.

`python -m benchmarks --help` says what it can do; docs/explanation/performance.md says how it measures.
"""
