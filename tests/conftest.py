"""Settings of every test."""

from __future__ import annotations

import signal

import pytest
from hypothesis import HealthCheck, settings

# Nothing is timed in a test; a busy machine is not a failure.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

# A shell without job control starts what it leaves in the background deaf to Ctrl-C, and all that
# this starts in turn; what is tested is a command in the foreground.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REPRO_DATA", "REPRO_RESULTS", "RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
