"""The options the embedded PostgreSQL is started with."""

from __future__ import annotations

import os

_FIXED = {
    "listen_addresses": "",
    "max_connections": "100",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "2GB",
    # with 16 MB, the most it takes by itself, who fills a ledger finds them full 10,000 times a million rows
    "wal_buffers": "64MB",
    "maintenance_work_mem": "128MB",
    "jit": "off",
    # the passwords are 24 random bytes, which nobody guesses: thousands of rounds only made each connection dearer
    "scram_iterations": "1",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # a week of logs, each overwritten when its day comes round
    "logging_collector": "on",
    "log_filename": "postgresql-%a.log",
    "log_truncate_on_rotation": "on",
    "log_rotation_age": "1d",
    "log_rotation_size": "0",
    "log_min_messages": "warning",
    # statements may hold addresses, so they are not logged with their errors
    "log_min_error_statement": "panic",
}


def defaults() -> dict[str, str]:
    """Options by name; an installation's own come over them."""
    return {**_FIXED, "shared_buffers": _shared_buffers()}


def _shared_buffers() -> str:
    """About 15 % of memory: the fold updates rows of a whole campaign, which should stay there (listen.md)."""
    memory_mb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    return f"{max(128, min(4096, memory_mb * 15 // 100))}MB"
