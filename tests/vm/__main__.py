"""Runs a command under another kernel, as root, in this checkout's folder: `python -m tests.vm 6.1 -- uname -a`.

In:   a name of KERNELS, a command
Out:  its output and its exit status; 125 when the guest did not run it to its end
Owns: nothing; see guest.py
"""

import argparse
import sys

from tests.vm.guest import GuestError, Machine, run_in_guest
from tests.vm.kernels import KERNELS, KernelError, find_kernel

NOT_RUN = 125


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("kernel", choices=KERNELS)
    parser.add_argument("--newest", action="store_true", help="ask Debian for a newer one than the one fetched before")
    parser.add_argument("--timeout", type=float, default=600, metavar="SECONDS")
    parser.add_argument("--processors", type=int, default=2)
    parser.add_argument("--icount", action="store_true", help="one processor, whose clock counts its instructions")
    parser.add_argument("command", nargs="+", metavar="-- COMMAND")
    asked = parser.parse_args()
    machine = Machine(1, counts_instructions=True) if asked.icount else Machine(asked.processors)
    try:
        kernel = find_kernel(asked.kernel, is_newest=asked.newest)
        return run_in_guest(kernel, asked.command, timeout_seconds=asked.timeout, machine=machine)
    except (GuestError, KernelError) as error:
        print(f"{asked.kernel}: {error}", file=sys.stderr)
        return NOT_RUN


if __name__ == "__main__":
    sys.exit(main())
