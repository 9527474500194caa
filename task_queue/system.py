"""Which system this is, for what we do differently there, or tell a person to type."""

from __future__ import annotations

import os

WINDOWS = os.name == "nt"
