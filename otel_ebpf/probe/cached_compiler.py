"""An artifact for each source: from the cache, else compiled and kept there.

In:   the sources, their flags, the running kernel's types
Out:  artifacts, each as soon as it is there
Owns: what is in the cache's key

The key covers all that the result depends on: source, headers, flags, this package's own generators, the kernel's
release, build and types, the architecture. Which bcc compiled is known only afterwards: it stands in the entry, and is
checked when the entry is read.
"""

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path

from otel_ebpf.errors import AgentError
from otel_ebpf.probe import cache
from otel_ebpf.probe.artifact import Artifact
from otel_ebpf.probe.kernel_types import KernelTypes, find_kernel_types
from otel_ebpf.probe.programs import Source

_CFLAGS = (
    "-Wno-pragma-once-outside-header",
    "-g0",  # nothing reads what bcc's own -g asks for
    *("-Xclang", "-disable-llvm-passes"),  # bcc optimizes by itself: once is enough, and takes half of the time
)
_FLAG_NAME = re.compile(r"[A-Za-z_]\w*\Z", re.ASCII)
_GENERATORS = ("c_structs.py", "shim.py", "compile_child.py", "artifact.py", "compiler.py")


def prepare_all(
    sources: Sequence[Source],
    flags: Mapping[str, int | str],
    *,
    cache_dir: Path | None,
    bcc_python: str | None = None,
    progress: Callable[[str], None] | None = None,
    types: KernelTypes | None = None,
) -> Iterator[tuple[int, Artifact | AgentError]]:
    """Each with its index, as soon as it is there. Several are compiled at once, the first ones first.

    `cache_dir` None keeps nothing; `progress` gets a line when there is something to wait for, or to know.
    """
    report = _once(progress or _to_stderr)
    cflags = [compiler_flags(source, flags) for source in sources]
    try:
        types = types or find_kernel_types()
    except AgentError as error:
        yield from ((index, error) for index in range(len(sources)))
        return
    keys, missing = dict[int, str](), list[int]()
    evidence = b"" if cache_dir is None else sha256(types.evidence).digest()
    for index, source in enumerate(sources):
        artifact = None
        if cache_dir is not None:
            keys[index] = _key(source, cflags[index], types, evidence, bcc_python)
            artifact = cache.load_entry(cache_dir, keys[index], report)
        if artifact is not None:
            yield index, artifact
        else:
            missing.append(index)
    if not missing:
        return
    from otel_ebpf.probe.compiler import Job, compile_sources  # here: a warm start does not need it, and saves 20 ms

    report(f"compiling the probes for {types.kernel.release}")
    jobs = {index: Job(sources[index].text, cflags[index], sources[index].name) for index in missing}
    for index, result in compile_sources(jobs, types, bcc_python=bcc_python):
        if cache_dir is not None and isinstance(result, Artifact):
            cache.store_entry(cache_dir, keys[index], result, report)
        yield index, result


def compiler_flags(source: Source, flags: Mapping[str, int | str]) -> list[str]:
    """What bcc is given beside the text: -D for each flag, and where headers are."""
    for name in flags:
        if not _FLAG_NAME.match(name):
            raise ValueError(f"{name!r} is no name for a macro")
    include = [f"-I{source.include_folder}"] if source.include_folder else []
    return [*_CFLAGS, *include, *(f"-D{name}={value}" for name, value in flags.items())]


def _key(source: Source, cflags: list[str], types: KernelTypes, evidence: bytes, bcc_python: str | None) -> str:
    texts = (source.text, source.headers_text, "\0".join(cflags), bcc_python or "", "\0".join(types.kernel))
    generators = [Path(__file__).with_name(name).read_bytes() for name in _GENERATORS]
    return cache.cache_key([*(text.encode() for text in texts), *generators, evidence])


def _once(report: Callable[[str], None]) -> Callable[[str], None]:
    """What is the matter with a cache is the same for all that it keeps."""
    told = set[str]()

    def tell(line: str) -> None:
        if line not in told:
            told.add(line)
            report(line)

    return tell


def _to_stderr(line: str) -> None:
    sys.stderr.write(f"otel-ebpf: {line}\n")
