"""Start Python on a node with signals blocked until the run handles them.

`python bootstrap.py ARGUMENTS...` becomes `python ARGUMENTS...`. Imports take seconds; a preemption
warning in that time would kill the process. Blocked, the signal stays pending until
`repro.launch.job` unblocks it. This file is started by its path and imports nothing of ours.
"""

import os
import signal
import sys

if __name__ == "__main__":
    stops = [signal.SIGUSR2, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT]
    signal.pthread_sigmask(signal.SIG_BLOCK, stops)
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
