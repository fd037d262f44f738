"""Profiles of hypothesis: no deadline on a shared machine, and the same examples every time where CI decides."""

import os

from hypothesis import settings

settings.register_profile("klcal", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "klcal")
