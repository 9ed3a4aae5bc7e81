"""HTTP_PROXY, HTTPS_PROXY and NO_PROXY: through which proxy the collector is reached.

In:   their values, the collector's URL
Out:  the proxy's URL, or None
Owns: the rules, which the standard names share with curl, Go and Python but which no standard writes down
"""

import ipaddress
import re
from urllib.parse import urlsplit

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def parse_proxy(text: str) -> str:
    """A URL, or host:port for one of an HTTP proxy. Other kinds are refused only where one would be used."""
    url = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(url)
        is_allowed = bool(parts.hostname) and parts.port != 0 and not re.search(r"[\s?#\x00-\x1f]", url)
    except ValueError:
        is_allowed = False
    if not is_allowed:
        raise ValueError("the URL of an HTTP proxy, such as http://proxy:3128")
    return url


def parse_no_proxy(text: str) -> tuple[str, ...]:
    items = tuple(item.lower() for item in re.split(r"[\s,]+", text) if item)
    if not all(re.fullmatch(r"[\w.:*/\[\]-]+", item) for item in items) or any(item.startswith("//") for item in items):
        raise ValueError("host names, addresses and networks separated by commas, such as .example.com,10.0.0.0/8")
    return items


def proxy_for(endpoint: str, proxy: str | None, no_proxy: tuple[str, ...]) -> str | None:
    """The proxy on the way to the endpoint. As in Go, this host itself is never reached through one."""
    parts = urlsplit(endpoint)
    host = (parts.hostname or "").rstrip(".")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    address = _address(host)
    if proxy is None or host == "localhost" or (address is not None and address.is_loopback):
        return None
    return None if any(_is_exempt(item, host, port, address) for item in no_proxy) else proxy


def _address(host: str) -> _Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _is_exempt(item: str, host: str, port: int, address: _Address | None) -> bool:
    if item == "*":
        return True
    if "/" in item:
        try:
            return address is not None and address in ipaddress.ip_network(item, strict=False)
        except ValueError:
            return False
    name, colon, wanted_port = item.rpartition(":")
    if colon and wanted_port.isdigit() and _address(item) is None:
        if int(wanted_port) != port:
            return False
        item = name
    item = item.strip("[]")
    if address is not None:
        return _address(item) == address
    return host == item.lstrip("*.") or host.endswith("." + item.lstrip("*."))
