"""From frames to tables and figures."""

import os

# Figures are drawn to files. A backend that a notebook has exported may not exist here.
os.environ["MPLBACKEND"] = "agg"
