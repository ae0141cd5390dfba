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
    give_back(cycles=True)
    assert resident_mib() < before - 30  # some circles are collected sooner
    assert len(kept) == 1000


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_thread_frees_for_all():
    program = (
        "import sys, threading; from pathlib import Path\n"
        "from levit_deploy.memory import share_freed\n"
        "if sys.argv[1:]: share_freed()\n"
        "def work():\n"
        "    blocks = [bytearray(b'1') * 100_000 for _ in range(600)]\n"
        "    kept.append(bytearray(b'1') * 100_000)\n"  # behind them
        "kept = []; thread = threading.Thread(target=work); thread.start(); thread.join()\n"
        "again = [bytearray(b'1') * 100_000 for _ in range(600)]\n"
        "print(int(Path('/proc/self/statm').read_text().split()[1]) * 4096 // 2**20)"
    )
    usual, shared = (
        int(subprocess.run([sys.executable, "-c", program, *option], capture_output=True).stdout)
        for option in ([], ["shared"])
    )
    assert shared < usual - 40
