"""The first thing that runs on a node: hold signals back until the run is ready for them.

`python node.py ARGUMENTS...` becomes `python ARGUMENTS...`. Importing takes seconds, and a warning
of preemption in them would kill the process. Blocked, it waits until `repro.launch.job` asks.
A file of its own without imports from here, since it is started by its path.
"""

import os
import signal
import sys

if __name__ == "__main__":
    stops = [signal.SIGUSR2, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT]
    signal.pthread_sigmask(signal.SIG_BLOCK, stops)
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
