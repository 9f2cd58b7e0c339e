"""Settings of every test."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

# Nothing is timed in a test; a busy machine is not a failure.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REPRO_DATA", "REPRO_RESULTS", "RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
