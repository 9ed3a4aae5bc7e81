"""Which executables are taken for nginx, and which processes are flagged for it."""

from types import SimpleNamespace
from typing import Any

import pytest

from otel_ebpf.probe.nginx_watch import TARGET_IS_NGINX, NginxWatch, is_nginx
from otel_ebpf.probe.procfs import MappedFile
from tests.unit.probe.watch_stage import Map, Processes

NGINX = MappedFile(1, 2, b"/usr/sbin/nginx")


@pytest.mark.parametrize(
    ("path", "is_one"),
    [
        (b"/usr/sbin/nginx", True),
        (b"/usr/sbin/nginx-debug", True),
        (b"/usr/local/openresty/nginx/sbin/nginx", True),
        (b"/usr/local/openresty/bin/openresty", True),
        (b"/usr/sbin/angie", True),
        (b"/usr/lib/nginx/modules/ngx_stream_module.so", False),
        (b"/usr/bin/nginx-exporter", False),
        (b"/opt/notnginx", False),
        (b"/usr/sbin/haproxy", False),
    ],
)
def test_nginx_is_told_by_its_name_and_those_that_were_made_of_it(path: bytes, is_one: bool) -> None:
    assert is_one == is_nginx(MappedFile(1, 2, path))


def watched(processes: Processes, *, is_on: bool = True) -> NginxWatch:
    loaded: Any = SimpleNamespace(maps={"upstream_tallies": Map()})
    return NginxWatch(loaded, processes, is_on=is_on)


def test_a_process_is_flagged_while_it_runs_nginx() -> None:
    """And not any more once it runs another program, or has ended."""
    processes = Processes()
    watch = watched(processes)
    processes.mapped = {1: [NGINX], 2: [NGINX], 3: [MappedFile(9, 2, b"/usr/bin/python3")]}
    for pid in processes.mapped:
        watch.look_at(pid)
    assert [TARGET_IS_NGINX, TARGET_IS_NGINX, 0] == [watch.target_flags(pid) for pid in (1, 2, 3)]

    processes.mapped[1] = [MappedFile(9, 2, b"/bin/sh")]
    watch.look_at(1)
    watch.forget(2)

    assert [0, 0, 0] == [watch.target_flags(pid) for pid in (1, 2, 3)]


def test_without_links_none_is_flagged() -> None:
    processes = Processes()
    processes.mapped = {1: [NGINX]}
    watch = watched(processes, is_on=False)
    watch.look_at(1)

    assert (0, -1) == (watch.target_flags(1), watch.fileno())
