"""Which executables are taken for nginx."""

import pytest

from otel_ebpf.probe.nginx_watch import is_nginx
from otel_ebpf.probe.procfs import MappedFile


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
