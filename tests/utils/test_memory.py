"""Freed memory is kept: the system's count of page faults, in a process of its own."""
import platform

import pytest
from processes import run_script

PROGRAM = """
import resource
import torch
from modules.utils.dist import keep_freed_memory

def faults(tensors):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(tensors):
        torch.empty(40 << 20, dtype=torch.uint8).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

# Small objects between the tensors make the heap grow a few times before a place is used again.
print(faults(5), keep_freed_memory(), faults(40), faults(5))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")
def test_tensors_take_no_new_pages():
    done = run_script("-c", PROGRAM)
    assert done.returncode == 0, done.stderr
    words = done.stdout.split()
    first, kept, _, last = int(words[0]), words[1], int(words[2]), int(words[3])
    assert kept == "True"
    assert first > 10 * max(last, 1)
    assert last < 100
