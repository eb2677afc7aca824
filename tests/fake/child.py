"""A child process with little memory: what could blow up, blows up there."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent.parent


def in_child(code, *arguments, megabytes=400, seconds=60):
    """Standard output of a process that may allocate only so much more than its imports.

    `code` sees the arguments as `sys.argv[1:]`, and `open_dataset` and `RlsegError`.
    """
    if not sys.platform.startswith("linux"):
        pytest.skip("needs /proc and RLIMIT_AS, which only Linux has")
    head = f"""
        import resource, sys
        import torch
        torch.set_num_threads(1)
        from rlseg.data import open_dataset
        from rlseg.data import em3d, cremi
        from rlseg.errors import RlsegError
        from pathlib import Path
        pages = int(open("/proc/self/statm").read().split()[0])
        limit = pages * resource.getpagesize() + ({megabytes} << 20)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(head) + textwrap.dedent(code), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=seconds,
        cwd=REPOSITORY,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()
