"""A service that starts a program for each connection: `python -m tests.services.starting PORT WAY COMMAND...`.

WAY `with-it`: the connection is the program's standard input, and the program answers, as inetd has it. WAY `beside-it`:
the program is run to its end, and then this process answers.
"""

import socket
import subprocess
import sys

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"


def main() -> None:
    port, way, *command = sys.argv[1:]
    with socket.create_server(("127.0.0.1", int(port))) as listener:
        while True:
            client, _ = listener.accept()
            with client:
                if way == "with-it":
                    subprocess.Popen(command, stdin=client)
                    continue
                if not client.recv(65536):
                    continue  # who only looks whether somebody listens
                subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
                client.sendall(ANSWER)


if __name__ == "__main__":
    main()
