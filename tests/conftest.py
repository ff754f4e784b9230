"""Shared by all tests: two threads, and the tests folder importable (for reference.golden and the like)."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
torch.set_num_threads(2)
