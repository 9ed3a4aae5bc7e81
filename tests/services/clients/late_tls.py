"""A client that loads its TLS library when it is first asked: `python -m tests.services.clients.late_tls AUTHORITY PORT`.

Each line on standard input is a target to get, on a connection of its own; the answer's status is printed.
"""

import sys


def main() -> None:
    print("ready", flush=True)
    for line in sys.stdin:
        import http.client
        import ssl

        context = ssl.create_default_context(cafile=sys.argv[1])
        connection = http.client.HTTPSConnection("127.0.0.1", int(sys.argv[2]), timeout=60, context=context)
        connection.request("GET", line.strip())
        print(connection.getresponse().status, flush=True)
        connection.close()


if __name__ == "__main__":
    main()
