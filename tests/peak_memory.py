"""How much memory a piece of work needs, measured in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def peak_growth(prepare: str, work: str) -> int:
    """Bytes by which the largest resident size of a fresh process grows while it executes `work`.

    Both are Python source; `prepare` runs before. In this process an earlier test may have set the mark.
    """
    # VmHWM, and not getrusage's ru_maxrss, which a new process inherits from this one.
    program = f"""
import re, sys
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
import conftest, torch
torch.set_num_threads(1)
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
{prepare}
before = peak()
{work}
print(peak() - before)
"""
    return int(subprocess.run([sys.executable, "-c", program], check=True, capture_output=True).stdout)
