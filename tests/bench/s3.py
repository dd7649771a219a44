"""The S3 server of the tests, and a relay before it that makes it as far away as a cloud is."""

import json
import os
import socket
import subprocess
import threading
import time
from collections import deque

import measure

KEYS = {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench-secret", "AWS_REGION": "us-east-1"}
BLOCK = 256 << 10


class Server:
    """SeaweedFS over a folder of its own. Buckets come into being by the first write."""

    def __init__(self, program, home, env):
        self.program, self.home, self.env = program, home, env

    def __enter__(self):
        os.makedirs(os.path.join(self.home, "data"))
        users = {"identities": [{"name": "bench", "actions": ["Admin"], "credentials": [
            {"accessKey": KEYS["AWS_ACCESS_KEY_ID"], "secretKey": KEYS["AWS_SECRET_ACCESS_KEY"]}]}]}  # fmt: skip
        with open(os.path.join(self.home, "users.json"), "w") as f:
            json.dump(users, f)
        parts = ["master", "volume", "filer", "s3"]
        ports = free_ports(2 * len(parts))
        self.port = ports[6]
        argv = [self.program, "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3", "-s3.port.iceberg=0", "-s3.port.lance=0"]
        argv += ["-master.telemetry=false", "-master.volumeSizeLimitMB=1024", "-volume.max=100"]
        argv += [f"-dir={self.home}/data", f"-s3.config={self.home}/users.json"]
        argv += [f"-filer.localSocket={self.home}/filer.sock", f"-s3.localSocket={self.home}/s3.sock"]
        for number, part in enumerate(parts):
            argv += [f"-{part}.port={ports[2 * number]}", f"-{part}.port.grpc={ports[2 * number + 1]}"]
        self.log = open(os.path.join(self.home, "log"), "wb")
        self.child = subprocess.Popen(argv, env=self.env | {"HOME": self.home}, cwd=self.home,
                                      stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)  # fmt: skip
        measure.wait_for("the S3 server", self.answers)
        return self

    def answers(self):
        if self.child.poll() is not None:
            raise measure.Failed(f"the S3 server ended with {self.child.returncode}: see {self.log.name}")
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
            return True
        except OSError:
            return False

    def __exit__(self, *_):
        self.child.kill()
        self.child.wait()
        self.log.close()


class Relay:
    """Passes connections on to a port of this machine; every byte arrives half of `round_trip` seconds late, in order and
    without a limit of rate of its own, as over a long line."""

    def __init__(self, port, round_trip):
        self.to, self.late = port, round_trip / 2
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]

    def __enter__(self):
        threading.Thread(target=self.accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.listener.close()

    def accept(self):
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return  # closed
            far = socket.create_connection(("127.0.0.1", self.to))
            for source, sink in ((near, far), (far, near)):
                for end in (source, sink):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                line = Line(source, sink, self.late)
                threading.Thread(target=line.take_in, daemon=True).start()
                threading.Thread(target=line.give_out, daemon=True).start()


class Line:
    """One direction of a connection: what comes in goes out `late` seconds later."""

    MOST = 64 << 20  # bytes on the way

    def __init__(self, source, sink, late):
        self.source, self.sink, self.late = source, sink, late
        self.blocks, self.held, self.change = deque(), 0, threading.Condition()

    def take_in(self):
        while True:
            try:
                data = self.source.recv(BLOCK)
            except OSError:
                data = b""
            with self.change:
                self.change.wait_for(lambda: self.held < self.MOST)
                self.blocks.append((time.monotonic() + self.late, data))
                self.held += len(data)
                self.change.notify_all()
            if not data:
                return

    def give_out(self):
        while True:
            with self.change:
                self.change.wait_for(lambda: self.blocks)
                due, data = self.blocks.popleft()
                self.held -= len(data)
                self.change.notify_all()
            time.sleep(max(0, due - time.monotonic()))
            try:
                if not data:
                    return self.sink.shutdown(socket.SHUT_WR)
                self.sink.sendall(data)
            except OSError:
                return


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports
