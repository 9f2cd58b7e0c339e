"""Settings of every test."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from multiprocessing import resource_tracker

import pytest
from hypothesis import HealthCheck, settings

# Nothing is timed in a test; a busy machine is not a failure.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

# A shell without job control starts what it leaves in the background deaf to Ctrl-C, and all that
# this starts in turn; what is tested is a command in the foreground.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
for number in (signal.SIGHUP, signal.SIGQUIT):  # as nohup does
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)

# multiprocessing's helper keeps the environment of whoever needs it first. That shall not be a test
# on a cluster, which on its end takes down all processes that know of it.
resource_tracker.ensure_running()

# These files take minutes each; one at the end would leave the other core idle.
_LONGEST = (
    "test_slurm.py",
    "test_submit.py",
    "test_chaos.py",
    "test_local.py",
    "test_ranks.py",
    "test_probe.py",
    "test_testbed.py",
    "test_gpu.py",
    "test_smoke.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest files first."""
    order = {name: number for number, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


@pytest.fixture(autouse=True)
def _timms_default_attention() -> Iterator[None]:
    """A training sets timm's switch for its whole process, and so for the tests after it."""
    yield
    if "timm.layers" in sys.modules:  # else it costs its import
        sys.modules["timm.layers"].set_fused_attn(True)


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "REPRO_DATA",
        "REPRO_RESULTS",
        "REPRO_WEIGHTS",
        "REPRO_CLUSTER",
        "RANK",
        "WORLD_SIZE",
        "LOCAL_RANK",
    ):
        monkeypatch.delenv(name, raising=False)
