"""Coverage-guided fuzzing of all that reads foreign bytes: `make fuzz`, or `make fuzz FUZZ_ARGS="--seconds 600 http1"`.

In:   seconds for each target; which targets
Out:  a line for each: executions, coverage before and after, inputs that add to it, memory; exit 1 when one failed
Owns: the inputs found so far, in ~/.cache/otel-ebpf-tests/fuzz; with --keep the smallest of them become seeds

Each target runs in a process of its own, under libFuzzer's bounds of time and memory for one input. An input that
fails is written beside the others and named, so that `--replay FILE` shows it again.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.fuzz.seeds_from_captures import first_seeds
from tests.fuzz.targets import SEEDS, TARGETS
from tools.go_build import cache_folder

SECONDS_FOR_ONE_INPUT = 10
MAX_MEMORY_MIB = 512
_LINE = re.compile(r"^#(\d+)\s+(INITED|DONE)\s+cov: (\d+) ft: (\d+) corp: (\d+)", re.MULTILINE)
_MEMORY = re.compile(r"stat::peak_rss_mb:\s+(\d+)")


def libfuzzer(name: str, arguments: list[str]) -> "subprocess.CompletedProcess[str]":
    """Its output, which is about all that it says, as text."""
    command = [sys.executable, "-m", "tests.fuzz.child", name, *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)


def fuzz(name: str, seconds: int, found: Path) -> bool:
    """Prints what came of it."""
    folder = found / name
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as made:
        for number, seed in enumerate(first_seeds(name)):
            (Path(made) / str(number)).write_bytes(seed)
        done = libfuzzer(
            name,
            [
                f"-max_total_time={seconds}",
                f"-max_len={TARGETS[name].max_bytes}",
                f"-timeout={SECONDS_FOR_ONE_INPUT}",
                f"-rss_limit_mb={MAX_MEMORY_MIB}",
                f"-dict={SEEDS.parent / 'http.dict'}",
                f"-artifact_prefix={found / name}-",
                "-print_final_stats=1",
                str(folder),
                str(SEEDS / name),
                made,
            ],
        )
    lines = {line[2]: line for line in _LINE.finditer(done.stdout)}
    if done.returncode or "DONE" not in lines:
        print(f"{name:14} FAILED:\n{done.stdout[max(done.stdout.find(' === Uncaught'), -6000) :]}", flush=True)
        return False
    before, after = lines.get("INITED", lines["DONE"]), lines["DONE"]
    memory = _MEMORY.search(done.stdout)
    print(
        f"{name:14} {int(after[1]):>9} executions, coverage {before[3]} -> {after[3]}, features {before[4]} -> {after[4]}, "
        f"{after[5]} inputs, {memory[1] if memory else '?'} MiB at most",
        flush=True,
    )
    return True


def keep(name: str, found: Path) -> None:
    """The smallest set of inputs that reaches every edge that all of them reach becomes the seeds.

    Inputs that once failed, named `fixed-*`, stay.
    """
    seeds = SEEDS / name
    with tempfile.TemporaryDirectory() as merged:
        done = libfuzzer(
            name, ["-merge=1", "-use_counters=0", "-use_value_profile=0", merged, str(seeds), str(found / name)]
        )
        chosen = list(Path(merged).iterdir())
        if done.returncode or not chosen:
            raise SystemExit(f"{name}: merging failed:\n{done.stdout[-2000:]}")
        for path in seeds.iterdir():
            if not path.name.startswith("fixed-"):
                path.unlink()
        for path in chosen:
            shutil.copy(path, seeds / path.name)
    print(f"{name:14} {len(chosen)} seeds", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.fuzz", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; all when none is named")
    parser.add_argument("--seconds", type=int, default=20, help="for each target (20)")
    parser.add_argument("--keep", action="store_true", help="make the inputs found so far seeds")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="run one input of one target")
    chosen = parser.parse_args()
    names = chosen.targets or list(TARGETS)
    if unknown := [name for name in names if name not in TARGETS]:
        parser.error(f"no such target: {', '.join(unknown)}")
    if chosen.replay:
        for name in names:
            TARGETS[name].fuzz(chosen.replay.read_bytes())
        return 0
    found = cache_folder() / "fuzz"
    for name in names:
        (SEEDS / name).mkdir(parents=True, exist_ok=True)
    good = [name for name in names if fuzz(name, chosen.seconds, found)]
    for name in good if chosen.keep else ():
        keep(name, found)
    return 0 if good == names else 1


if __name__ == "__main__":
    raise SystemExit(main())
