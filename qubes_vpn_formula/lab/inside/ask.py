# SPDX-License-Identifier: GPL-2.0-or-later
"""Asks name servers, as a program in a qube does; standard library only.

ask.py SECONDS EVERY: reads questions as JSON, `{"protocol", "server", "name", "kind", "wait"}`, and
answers each with a line of JSON in turn.  With SECONDS it repeats the first one each EVERY seconds
until there is an answer, or for that long.
"""

import json
import secrets
import socket
import ssl
import struct
import sys
import time

_LENGTH = {1: 4, 28: 16}


def question(name, kind):
    """A question for an address, with a number of its own."""
    header = secrets.token_bytes(2) + struct.pack("!5H", 0x0100, 1, 0, 0, 0)
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return header + labels + struct.pack("!BHH", 0, kind, 1)


def read(data):
    """Response code and addresses of an answer.  The names in it are compressed, or it has none."""
    code, questions, answers = data[3] & 15, *struct.unpack_from("!HH", data, 4)
    at = 12
    for _ in range(questions):
        at = _past_name(data, at) + 4
    found = []
    for _ in range(answers):
        at = _past_name(data, at)
        kind, length = struct.unpack_from("!H6xH", data, at)
        at += 10
        if length == _LENGTH.get(kind):
            family = socket.AF_INET if kind == 1 else socket.AF_INET6
            found.append(socket.inet_ntop(family, data[at : at + length]))
        at += length
    return code, found


def _past_name(data, at):
    while data[at] and data[at] < 0xC0:
        at += 1 + data[at]
    return at + (2 if data[at] else 1)


def ask(job):
    """The answer as a line's content; `error` is why there is none."""
    asked = question(job["name"], job["kind"])
    begun = time.time()
    try:
        data = {"udp": _udp, "tcp": _stream, "tls": _stream}[job["protocol"]](job, asked)
        code, addresses = read(data)
        error = ""
    except OSError as trouble:
        code, addresses, error = None, [], type(trouble).__name__
    ended = time.time()
    return {"code": code, "addresses": addresses, "error": error, "begun": begun, "ended": ended}


def _udp(job, asked):
    family = socket.AF_INET6 if ":" in job["server"] else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as one:
        one.settimeout(job["wait"])
        one.connect((job["server"], 53))
        one.send(asked)
        while True:
            data = one.recv(4096)
            if data[:2] == asked[:2]:
                return data


def _stream(job, asked):
    tls = job["protocol"] == "tls"
    port = 853 if tls else 53
    with socket.create_connection((job["server"], port), job["wait"]) as plain:
        one = plain
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            one = context.wrap_socket(plain)
        one.sendall(struct.pack("!H", len(asked)) + asked)
        data = _exactly(one, struct.unpack("!H", _exactly(one, 2))[0])
        one.close()
        return data


def _exactly(one, size):
    data = b""
    while len(data) < size:
        more = one.recv(size - len(data))
        if not more:
            raise ConnectionResetError
        data += more
    return data


def main(seconds, every):
    jobs = json.load(sys.stdin)
    if not seconds:
        for job in jobs:
            print(json.dumps(ask(job)), flush=True)
        return
    until = time.monotonic() + seconds
    answer = ask(jobs[0])
    while not answer["addresses"] and time.monotonic() < until:
        time.sleep(every)
        answer = ask(jobs[0])
    print(json.dumps(answer))


if __name__ == "__main__":
    main(float(sys.argv[1]), float(sys.argv[2]))
