"""Settings that every test shares: the same examples and the same arithmetic on every machine."""

import os

import torch
from hypothesis import settings

os.environ.setdefault("PLOTLY_RENDERER", "plotly_mimetype")
# deadline: a first call into torch is slow for reasons that are not the test's; derandomize: a red run is red again tomorrow
settings.register_profile("sastc", derandomize=True, deadline=None, max_examples=50)
settings.load_profile("sastc")
# small tensors gain nothing from more, and threads of several processes that wait for each other lose a great deal
torch.set_num_threads(1)
