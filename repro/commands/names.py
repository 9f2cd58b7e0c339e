"""The names of the commands: a leaf, so that an error can suggest one."""

from __future__ import annotations

NAMES = ("reproduce", "list", "plan", "why", "claims", "verify", "report", "curves",
         "compare", "rerun", "outdated", "accept", "status", "logs", "failures",
         "cancel", "retry", "export", "import", "sample", "explain", "prepare",
         "doctor", "testbed", "clean", "bench", "completion")  # fmt: skip
