"""A client of a running kinfold node: one file, standard library only, Python 3.8 or later.

    from kinfold_client import Client

    with Client("/home/me/.local/share/kinfold") as node:
        op = node.call("sync.append", surface="registry:note", payload={"id": "today", "text": "bread"})
        for change in node.subscribe(surface="registry:note"):
            print(change["id"], change["payload"])

`Client(home)` speaks over the Unix socket; `Client(home, websocket=True)` over the WebSocket on
loopback, which does the same. Calls may be made from many threads. The methods are described by the
node itself: `node.call("rpc.discover")`.
"""

import base64
import json
import os
import queue
import socket
import struct
import threading

__all__ = ["Client", "Refused", "Disconnected", "Subscription"]


class Refused(Exception):
    """The node refused a request and says why."""

    def __init__(self, error):
        super().__init__(error["message"])
        data = error.get("data") or {}
        self.code = error["code"]
        self.kind = data.get("kind")
        """The name of what went wrong, stable for programs."""
        self.blame = data.get("blame")
        """Who is to change something: local, peer or environment."""
        self.hint = data.get("hint")
        """What to do, or None."""
        self.causes = data.get("causes", [])
        self.data = data

    def __str__(self):
        text = ": ".join([self.args[0]] + self.causes)
        return f"{text} ({self.hint})" if self.hint else text


class Disconnected(Exception):
    """The connection to the node ended before an answer came."""


class Client:
    """A connection to the node that runs in `home`."""

    def __init__(self, home, websocket=False):
        self._link = _WebSocket(home) if websocket else _UnixSocket(home)
        self._lock = threading.Lock()
        self._last = 0
        self._waiting = {}
        self._subscriptions = {}
        self._early = {}
        self._is_open = True
        threading.Thread(target=self._read, name="kinfold-client", daemon=True).start()

    def call(self, method, **params):
        """Calls a method and returns its result.

        Raises Refused with the node's reason, Disconnected where no answer came.
        """
        answered = queue.SimpleQueue()
        with self._lock:
            if not self._is_open:
                raise Disconnected("the connection has ended")
            self._last += 1
            request = {"jsonrpc": "2.0", "id": self._last, "method": method, "params": params}
            self._waiting[self._last] = answered
            self._link.send(json.dumps(request, ensure_ascii=False))
        answer = answered.get()
        if answer is None:
            raise Disconnected("the node closed the connection before it answered")
        if "error" in answer:
            raise Refused(answer["error"])
        return answer["result"]

    def subscribe(self, scope=None, surface=None, after=None):
        """Follows changes: from now on, or from `after` on, the bookmark of an earlier subscription.

        The iterator goes on by itself where it fell behind, so it misses nothing; keep its `bookmark`
        beside what you make of the changes to go on after a restart.
        """
        return Subscription(self, scope, surface, after)

    def close(self):
        """Ends the connection; iterators end, and waiting calls raise Disconnected."""
        self._link.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _begin(self, params):
        """Subscribes; notices that came before the answer are handed over with it."""
        notices = queue.SimpleQueue()
        begun = self.call("sync.subscribe", **params)
        with self._lock:
            for notice in self._early.pop(begun["subscription"], []):
                notices.put(notice)
            self._subscriptions[begun["subscription"]] = notices
            if not self._is_open:
                notices.put(None)
        return begun, notices

    def _read(self):
        try:
            while True:
                text = self._link.receive()
                if text is None:
                    break
                message = json.loads(text)
                with self._lock:
                    if "method" in message:
                        self._hear(message)
                    elif message.get("id") in self._waiting:
                        self._waiting.pop(message["id"]).put(message)
        except OSError:
            pass  # The connection broke: everybody who waits is told so below.
        finally:
            with self._lock:
                self._is_open = False
                for waiting in list(self._waiting.values()) + list(self._subscriptions.values()):
                    waiting.put(None)

    def _hear(self, message):
        number = message["params"].get("subscription")
        if number in self._subscriptions:
            self._subscriptions[number].put(message)
        elif number is not None and number > 0:
            self._early.setdefault(number, []).append(message)


class Subscription:
    """An iterator over changes that resumes by itself."""

    def __init__(self, client, scope, surface, after):
        self._client = client
        self._params = {"scope": scope, "surface": surface}
        self._params = {name: value for name, value in self._params.items() if value is not None}
        self.bookmark = after
        """The place after the last change that was returned: what `subscribe` takes as `after`."""
        self._start()

    def _start(self):
        params = dict(self._params)
        if self.bookmark is not None:
            params["after"] = self.bookmark
        begun, self._notices = self._client._begin(params)
        self._number = begun["subscription"]
        self.bookmark = begun["bookmark"]

    def __iter__(self):
        return self

    def __next__(self):
        while True:
            notice = self._notices.get()
            if notice is None:
                raise StopIteration
            params = notice["params"]
            if notice["method"] == "sync.changed":
                log = f"{params['device_id']}/{params['incarnation']}"
                frontier = self.bookmark["frontier"]
                frontier[log] = max(frontier.get(log, 0), params["seq"])
                return params
            if notice["method"] == "sync.lagged":
                self.bookmark = params["resume_after"]
                self._start()
            elif notice["method"] == "sync.ended":
                raise Refused(params["error"])

    def close(self):
        """Ends the subscription; the connection stays."""
        self._client.call("sync.unsubscribe", subscription=self._number)
        self._notices.put(None)


class _UnixSocket:
    """One JSON text per line."""

    def __init__(self, home):
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(os.path.join(home, "control.sock"))
        self._lines = self._socket.makefile("r", encoding="utf-8", newline="\n")

    def send(self, text):
        self._socket.sendall(text.encode() + b"\n")

    def receive(self):
        return self._lines.readline() or None

    def close(self):
        _shut(self._socket)


class _WebSocket:
    """One JSON text per message (RFC 6455), with the token from the node's home."""

    def __init__(self, home):
        with open(os.path.join(home, "control.port"), encoding="ascii") as file:
            port = int(file.read())
        with open(os.path.join(home, "control.token"), encoding="ascii") as file:
            token = file.read()
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._read = self._socket.makefile("rb")
        self._sending = threading.Lock()
        key = base64.b64encode(os.urandom(16)).decode()
        request = (
            f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\nAuthorization: Bearer {token}\r\n\r\n"
        )
        self._socket.sendall(request.encode())
        status = self._read.readline().decode().strip()
        while self._read.readline() not in (b"\r\n", b""):
            pass
        if " 101 " not in status:
            raise Disconnected(f"the node refused the WebSocket: {status}")

    def send(self, text):
        self._frame(1, text.encode())

    def receive(self):
        while True:
            head = self._read.read(2)
            if len(head) < 2:
                return None
            length = head[1]
            if length == 126:
                (length,) = struct.unpack(">H", self._read.read(2))
            elif length == 127:
                (length,) = struct.unpack(">Q", self._read.read(8))
            payload = self._read.read(length)
            kind = head[0] & 15
            if kind == 1:
                return payload.decode()
            if kind == 8:
                self._frame(8, payload)
                return None
            if kind == 9:
                self._frame(10, payload)

    def close(self):
        _shut(self._socket)

    def _frame(self, kind, payload):
        length = len(payload)
        if length < 126:
            head = struct.pack(">BB", 128 | kind, 128 | length)
        elif length < 65536:
            head = struct.pack(">BBH", 128 | kind, 128 | 126, length)
        else:
            head = struct.pack(">BBQ", 128 | kind, 128 | 127, length)
        mask = os.urandom(4)
        pad = int.from_bytes((mask * (length // 4 + 1))[:length], "big")
        masked = (int.from_bytes(payload, "big") ^ pad).to_bytes(length, "big")
        with self._sending:
            self._socket.sendall(head + mask + masked)


def _shut(connection):
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # It is closed already.
    connection.close()
