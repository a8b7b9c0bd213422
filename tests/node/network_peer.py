"""A small server and client for the tests of networks: ``serve PORT TEXT``, ``echo``, ``ask HOST PORT``, and with udp.

serve   answers each connection (or datagram) with TEXT, after a while if that is said
echo    sends back what a connection sends, once its end of file was read
ask     prints what a server answers; sends nothing but its end of file (or an empty datagram)
send    sends standard input, then prints what comes back
"""

import socket
import sys
import threading
import time


def serve(port: str, text: str, after_s: str = "0") -> None:
    with socket.create_server(("0.0.0.0", int(port))) as server:
        while True:
            client, _ = server.accept()
            with client:
                time.sleep(float(after_s))
                client.sendall(text.encode())


def serve_udp(port: str, text: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("0.0.0.0", int(port)))
        while True:
            _, client = server.recvfrom(100)
            server.sendto(text.encode(), client)


def echo(port: str) -> None:
    with socket.create_server(("0.0.0.0", int(port))) as server:
        while True:
            client, _ = server.accept()
            with client:
                client.sendall(everything(client))


def everything(sock: socket.socket) -> bytes:
    return b"".join(iter(lambda: sock.recv(65536), b""))


def ask(host: str, port: str, timeout_s: str = "2") -> None:
    with socket.create_connection((host, int(port)), float(timeout_s)) as sock:
        sys.stdout.buffer.write(everything(sock))


def ask_udp(host: str, port: str, timeout_s: str = "2") -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(float(timeout_s))
        sock.sendto(b"", (host, int(port)))
        sys.stdout.buffer.write(sock.recv(100))


def send(host: str, port: str) -> None:
    with socket.create_connection((host, int(port)), 60) as sock:

        def feed() -> None:
            sock.sendall(sys.stdin.buffer.read())
            sock.shutdown(socket.SHUT_WR)

        threading.Thread(target=feed).start()
        sys.stdout.buffer.write(everything(sock))


if __name__ == "__main__":
    try:
        {f.__name__: f for f in (serve, serve_udp, echo, ask, ask_udp, send)}[sys.argv[1]](*sys.argv[2:])
    except OSError as problem:
        sys.exit(str(problem))
