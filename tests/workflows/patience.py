"""How long something may take on the machine that the tests run on."""

import time


def two_seconds() -> float:
    """Seconds of processor time: two where ten million numbers are added up in a tenth, more on a slower machine."""
    start = time.process_time()
    sum(range(10**7))
    return 2 * max(1.0, (time.process_time() - start) / 0.1)
