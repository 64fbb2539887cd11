"""A short table after the benchmarks: time and memory per sample."""

from __future__ import annotations

from typing import Any

import pytest


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    session = getattr(config, "_benchmarksession", None)
    done = [b for b in getattr(session, "benchmarks", []) if not b.has_error]
    if not done:
        return
    terminalreporter.section("per sample")
    terminalreporter.write_line(f"{'':44}{'median':>12}{'peak memory':>14}")
    for bench in sorted(done, key=lambda b: -b.stats.median):
        peak = bench.extra_info.get("peak_mib")
        peak = "" if peak is None else f"{peak:.0f} MiB"
        median = f"{bench.stats.median * 1000:.1f} ms"
        terminalreporter.write_line(f"{bench.name[:44]:44}{median:>12}{peak:>14}")
    info = done[0].extra_info
    terminalreporter.write_line(f"{info['machine']}, {info['threads']} threads, {info['size']}")
