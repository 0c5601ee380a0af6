"""What holds for every test."""

from __future__ import annotations

from hypothesis import settings

# 200 ms for one example, and 1 s for making the first ones, say how busy the machine is, not how good the code.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")
