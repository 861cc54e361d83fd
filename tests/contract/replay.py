# SPDX-License-Identifier: GPL-2.0-or-later
"""Plays the recorded calls, and gives the answers as the recordings have them (see README.md)."""

import json
import re
import time
from pathlib import Path

import pytest

from qubes_vpn_formula.embedded.qubesd import AdminError, EmptyAnswer

HERE = Path(__file__).parent
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
ADDRESS = re.compile(r"0x[0-9a-f]{6,}")
REPEAT = re.compile(r"@repeat (\d+) (.*)")
LONGEST = 3000


def recordings():
    """Every list of calls with its recording, per release."""
    for path in sorted(HERE.glob("*release4.?.jsonl")):
        calls = path.name.split("release")[0].rstrip("-") or "scenario"
        yield pytest.param(HERE / f"{calls}.txt", path, id=path.stem)


def answer(qubesd, call: str, now: int) -> dict:
    """Play one line of a list, and give the answer as a recording has it."""
    dest, method, arg, payload = call.split("|", 3)
    sent = payload
    if repeated := REPEAT.fullmatch(payload):
        times, text = int(repeated[1]), repeated[2]
        sent = "".join(text.replace("%", str(number)) for number in range(times))
    sent = sent.replace("\\n", "\n")
    sent = sent.replace("@now+60", str(now + 60)).replace("@now-60", str(now - 60))
    shown = {"call": [dest, method, arg, payload]}
    try:
        text = qubesd.call(dest, method, arg, sent.encode()).decode()
    except AdminError as error:
        return {**shown, "error": error.error}
    except EmptyAnswer:
        return {**shown, "empty": True}
    text = UUID.sub("UUID", text).replace(str(now + 60), "@now+60")
    text = ADDRESS.sub("0xADDR", text)
    if len(text) > LONGEST:
        text = f"{text[:LONGEST]}...({len(text)})"
    return {**shown, "ok": text}


def play(qubesd, lines):
    now = int(time.time())
    for line in lines:
        if line.startswith("!qdb "):
            _, qube, prefix = line.split()
            entries = {k: v for k, v in qubesd.qubesdb(qube).items() if k.startswith(prefix)}
            yield {"qdb": qube, "entries": entries}
        elif line and line[0] not in "#!":
            yield answer(qubesd, line, now)


def differences(qubesd, calls: Path, recording: Path) -> list[tuple[dict, dict]]:
    """(recorded, given) for each call of *calls* that *qubesd* answers otherwise than recorded.

    An error counts by its class, any other answer by its text.
    """
    recorded = [json.loads(line) for line in recording.read_text().splitlines()]
    wanted = [
        {key: value for key, value in entry.items() if key != "msg"}
        for entry in recorded
        if "#" not in entry
    ]
    got = list(play(qubesd, calls.read_text().splitlines()))
    return [pair for pair in zip(wanted, got, strict=True) if pair[0] != pair[1]]
