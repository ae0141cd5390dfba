import subprocess
import sys
from pathlib import Path

import pytest

from levit_deploy.memory import give_back


def resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_is_free_goes_back_to_the_system_and_circles_with_it():
    kept = []
    for _ in range(1000):
        circle = [bytearray(b"1" * 100_000)]  # too small for the system to be asked for each
        circle.append(circle)
        kept.append(bytearray(b"1" * 1000))  # between those that are freed
    del circle
    before = resident_mib()
    give_back()
    assert resident_mib() < before - 50
    assert len(kept) == 1000


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_large_blocks_go_back_at_once():
    program = (
        "import sys; from pathlib import Path; from levit_deploy.memory import hold_little\n"
        "if sys.argv[1:]: hold_little()\n"
        "block = bytearray(b'1') * (30 << 20); del block\n"  # from now on, 3 MiB are a small block
        "blocks = [bytearray(b'1') * (3 << 20) for _ in range(20)]\n"
        "kept = bytearray(b'1') * 100_000; del blocks\n"
        "print(int(Path('/proc/self/statm').read_text().split()[1]) * 4096 // 2**20)"
    )
    usual, little = (
        int(subprocess.run([sys.executable, "-c", program, *option], capture_output=True).stdout)
        for option in ([], ["little"])
    )
    assert little < usual - 50
