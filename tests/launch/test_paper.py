"""Another paper on SLURM: its jobs need neither its folder nor our environment."""

from __future__ import annotations

import shutil

from tests.launch import wait_until
from tests.launch.test_submit import HOLD, User, bed, data, user  # noqa: F401
from tests.test_paper import TINY


def test_jobs_take_the_paper_with_them(user: User) -> None:  # noqa: F811
    user.site(HOLD)
    copy = shutil.copytree(TINY, user.here / "tiny")
    out = user.stdout_of(
        "table1 --paper tiny --scale smoke --launch slurm --cluster site.yaml --seeds 1"
    )
    assert "submitted 2 runs" in out
    shutil.rmtree(copy)
    user.release()
    wait_until(lambda: len(list(user.here.glob("results/*/result.json"))) == 2)
    assert "2 runs: 2 done" in user.stdout_of(f"plan table1 --scale smoke --seeds 1 --paper {TINY}")
