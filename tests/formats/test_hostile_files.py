"""Generated files, new ones in each run: read, or refused in one sentence, with bounded time and memory.

By default a few hundred of each kind; with ``UNET_MOTION_HOSTILE=all`` as many as the table in tests/README.md says.
The seed is printed; ``UNET_MOTION_SEED`` gives the same files again.
"""

import os
import random
import sys

import pytest

from tests.formats.hostile.generators import GENERATORS, NUMBERS
from tests.formats.hostile.harness import check


@pytest.mark.skipif(sys.platform == "win32", reason="the memory of a process is measured on Linux and macOS")
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("generator", GENERATORS)
def test_generated_files(generator, tmp_path, capsys):
    seed = os.environ.get("UNET_MOTION_SEED") or str(random.SystemRandom().randrange(10**9))
    number = NUMBERS[generator][os.environ.get("UNET_MOTION_HOSTILE") == "all"]
    outcome = check(generator, number, seed, tmp_path)
    with capsys.disabled():
        counts = ", ".join(f"{count} {word}" for word, count in sorted(outcome.results.items()))
        print(f"\n{number} {generator} from seed {seed}: {counts}; {len(outcome.findings)} faults")
    assert not outcome.findings, "\n".join(map(str, outcome.findings[:20]))
    # Both ways are taken: files that are all refused at once would show little.
    assert min(outcome.results["read"], outcome.results["refused"]) > number / 10
