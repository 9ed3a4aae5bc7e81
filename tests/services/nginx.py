"""Configurations for nginx: an ordinary, unmodified server that answers as plan.py says.

In:   a folder for its files, where to listen, and what to do with requests
Out:  the text of nginx.conf
Owns: nothing; the caller starts nginx with it
"""

from pathlib import Path

from tests.services.certificates import Certificates
from tests.services.plan import SIZES, STATUSES, WITHOUT_BODY

# limit_rate gives out one second's bytes at once: a response of 6,500 bytes takes a second more.
SLOW_BYTES_PER_SECOND = 5000


def configuration(
    folder: Path,
    listen: list[str],
    locations: str,
    *,
    workers: int = 1,
    upstream: str = "",
    access_log: str = "off",
    certificates: Certificates | None = None,
) -> str:
    listens = "\n".join(f"    listen {where}{' ssl' if certificates else ''};" for where in listen)
    if certificates is not None:
        listens += f"\n    ssl_certificate {certificates.certificate}; ssl_certificate_key {certificates.key};"
        listens += "\n    ssl_session_cache shared:sessions:1m;"
    return f"""
worker_processes {workers};
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 1024; }}
http {{
  log_format line '$request_method $request_uri $status';
  access_log {access_log};
  default_type text/plain;
  client_max_body_size 100m;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  keepalive_requests 1000000;
  large_client_header_buffers 4 32k;
  sendfile on;
  ssi_types *;
{upstream}
  server {{
{listens}
{locations}
  }}
}}
"""


def answers() -> str:
    """One location for each status, size and framing; SSI is what makes nginx itself send chunks."""
    lines = [
        '    set $k1 "' + "x" * 1000 + '";',
        '    set $k10 "' + "${k1}" * 10 + '";',
        '    set $k100 "' + "${k10}" * 10 + '";',
    ]
    for size in SIZES:
        body = "${k100}" * (size // 100_000) + "${k10}" * (size % 100_000 // 10_000)
        body += "${k1}" * (size % 10_000 // 1000) + "x" * (size % 1000)
        lines.append(f'    set $body{size} "{body}";')
    for status in STATUSES:
        for size in [0] if status in WITHOUT_BODY else SIZES:
            body = "" if status in WITHOUT_BODY else f" $body{size}"
            where = f"/status/{status}/size/{size}/framing"
            answer = f"return {status}{body};"
            slow = f"limit_rate {SLOW_BYTES_PER_SECOND};"
            lines.append(f"    location ~ {where}/length/delay/0(/|$) {{ {answer} }}")
            lines.append(f"    location ~ {where}/length/delay/ {{ {slow} {answer} }}")
            lines.append(f"    location ~ {where}/chunked/ {{ ssi on; {answer} }}")
    return "\n".join(lines)


def files(root: Path) -> str:
    return f"    root {root};"


def store(root: Path) -> str:
    """Keeps what is PUT, and sends it from the file."""
    return f"    location / {{ root {root}; dav_methods PUT; }}"


def proxy(upstream_address: str, *, keep_alive: bool) -> tuple[str, str]:
    """(upstream block, locations); the address is HOST:PORT or unix:PATH."""
    keep = "keepalive 8;" if keep_alive else ""
    version = 'proxy_http_version 1.1; proxy_set_header Connection "";' if keep_alive else ""
    upstream = f"  upstream behind {{ server {upstream_address}; {keep} }}"
    return upstream, f"    location / {{ {version} proxy_pass http://behind; }}"
