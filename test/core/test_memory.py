"""Memory that is freed serves the next allocation."""

import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

# How many pages the system has to hand out during passes that are all alike, before and after.
COUNT_PAGE_FAULTS = """
import resource, sys, threading
import torch
from genesis_core.memory import keep_freed_memory

torch.set_num_threads(1)

def forward():
    x = torch.ones(9 * 2**20)  # 36 MiB: always mapped by itself, unless told otherwise
    x.relu().relu()

@torch.inference_mode()
def work():
    for _ in range(10):  # until free blocks of all sizes are there
        forward()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(3):
        forward()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

def run():
    if sys.argv[1] == "main":
        work()
    else:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()

run()
assert keep_freed_memory()
run()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
@pytest.mark.parametrize("where", ["main", "thread"])
def test_freed_memory_is_used_again(where: str) -> None:
    command = [sys.executable, "-c", COUNT_PAGE_FAULTS, where]
    result = subprocess.run(command, capture_output=True, check=True, text=True)
    returned, kept = map(int, result.stdout.split())
    # Where the system uses huge pages, there are few either way.
    assert kept <= max(100, returned // 10), (kept, returned)
