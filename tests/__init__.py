"""Tests mirror repro/, room by room."""

import torch

DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()  # what there is here: nothing is skipped
