"""What shows only after a long time: `make soak`, or `make soak SOAK_ARGS="--seconds 60 steady spool"`.

In:   which runs, and how long
Out:  figures on standard output; exit status 1 when a span was lost without being counted, or came in the wrong place
Owns: nothing that its runs do not own
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.soak.runs import Outcome, outage, steady

RUNS: dict[str, tuple[int, Callable[[Path, int], Outcome]]] = {
    "steady": (1800, lambda folder, seconds: steady(folder, seconds, per_second=2000, paths=5000)),
    "spool": (600, lambda folder, seconds: outage(folder, seconds, per_second=1000, has_spool=True)),
    "memory": (600, lambda folder, seconds: outage(folder, seconds, per_second=1000, has_spool=False)),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", nargs="*", default=list(RUNS), metavar="|".join(RUNS))
    parser.add_argument("--seconds", type=int, help="instead of 30 minutes for `steady`, and 10 for each outage")
    options = parser.parse_args()
    is_whole = True
    for name in options.runs:
        seconds, run = RUNS[name]
        with tempfile.TemporaryDirectory(prefix="otel-ebpf-soak-") as folder:
            outcome = run(Path(folder), options.seconds or seconds)
        print("\n".join(outcome.lines()), flush=True)
        is_whole = is_whole and outcome.is_whole
    return 0 if is_whole else 1


if __name__ == "__main__":
    sys.exit(main())
