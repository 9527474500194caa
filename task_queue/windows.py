"""The platform: whether this is Windows, where signals, terminals and processes work differently."""

import os

WINDOWS = os.name == "nt"
