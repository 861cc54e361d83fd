# SPDX-License-Identifier: GPL-2.0-or-later
"""A name server: `resolver.py ADDRESS ANSWER [DEAF]`, port 53 over UDP and TCP, until SIGTERM.

Every name has the IPv4 address ANSWER.  The root alone has name servers, and no other name that is
asked for them is there.  With `refused` for ANSWER it refuses, with `empty` it says nothing of any
name.  DEAF: how many questions over UDP it does not hear at first.
Says `listening` when it does, and at the end how many questions for a name it has heard: who
asks for the root's servers wants to know only whether it is there.
"""

import contextlib
import signal
import socket
import struct
import sys
import threading

_A, _NS = 1, 2
_ANSWERED, _NOT_THERE, _REFUSED = 0x8180, 0x8183, 0x8185
_ROOT = 17  # where a question ends that is for no name
_POINTER = b"\xc0\x0c"  # the name in the question


class Resolver:
    """Both servers."""

    def __init__(self, address, answer, deaf):
        self.family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.answer, self.deaf, self.names = answer, deaf, 0
        self.datagrams = socket.socket(self.family, socket.SOCK_DGRAM)
        if self.family == socket.AF_INET6:  # as the listener does by itself
            self.datagrams.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        self.datagrams.bind((address, 53))
        self.listener = socket.create_server((address, 53), family=self.family, backlog=128)

    def serve_datagrams(self):
        """Never returns."""
        while True:
            question, client = self.datagrams.recvfrom(65535)
            if self.deaf:
                self.deaf -= 1
                continue
            # No way back, for now; or it was no question.
            with contextlib.suppress(OSError, ValueError, struct.error):
                self.datagrams.sendto(self.reply(question), client)

    def serve_streams(self):
        """Never returns."""
        while True:
            connection, _ = self.listener.accept()
            threading.Thread(target=self.stream, args=(connection,), daemon=True).start()

    def stream(self, connection):
        """The questions of one connection."""
        with connection, contextlib.suppress(OSError, ValueError, struct.error):
            connection.settimeout(30)
            while length := connection.recv(2, socket.MSG_WAITALL):
                question = connection.recv(int.from_bytes(length), socket.MSG_WAITALL)
                reply = self.reply(question)
                connection.sendall(len(reply).to_bytes(2) + reply)

    def reply(self, question):
        """What is said to a question."""
        end = question.index(b"\0", 12) + 5
        self.names += end > _ROOT
        (kind,) = struct.unpack("!H", question[end - 4 : end - 2])
        data = {_A: lambda: socket.inet_aton(self.answer), _NS: lambda: b"\1a\0"}.get(kind)
        answers, flags = (b"", _REFUSED) if self.answer == "refused" else (b"", _ANSWERED)
        if self.answer == "empty":
            data = None
        elif flags == _ANSWERED and kind == _NS and question[12:13] != b"\0":
            flags = _NOT_THERE
        if flags == _ANSWERED and data:
            answers = _POINTER + struct.pack("!HHIH", kind, 1, 0, len(data())) + data()
        counts = struct.pack("!HHHHH", flags, 1, int(bool(answers)), 0, 0)
        return question[:2] + counts + question[12:end] + answers


def main():
    """Serves until SIGTERM."""
    address, answer, *deaf = sys.argv[1:]
    resolver = Resolver(address, answer, int(deaf[0]) if deaf else 0)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # the threads' too
    for serve in (resolver.serve_datagrams, resolver.serve_streams):
        threading.Thread(target=serve, daemon=True).start()
    print("listening", flush=True)
    signal.sigwait([signal.SIGTERM])
    print(resolver.names, flush=True)


if __name__ == "__main__":
    main()
