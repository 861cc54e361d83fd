# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs every scenario; one JSON line each: its name and its facts, or the traceback."""

import json
import os
import subprocess
import time
import traceback

import chain
import gate
import loading
import offload
import wireguard


def main():
    _say("machine", _machine)
    _say("chain", chain.build)
    for part in (loading, offload, gate, wireguard):
        for name, scenario, *arguments in part.scenarios():
            _say(name, scenario, *arguments)
    print('["end"]', flush=True)


def _say(name, scenario, *arguments):
    started = time.monotonic()
    try:
        facts = scenario(*arguments) or {}
    except Exception:
        facts = {"error": traceback.format_exc()}
    facts["seconds"] = round(time.monotonic() - started, 2)
    print(json.dumps([name, facts]), flush=True)


def _machine():
    version = subprocess.run(["nft", "--version"], capture_output=True, text=True, check=True)
    nft = version.stdout.split()[1]
    return {"kernel": os.uname().release, "nft": nft, "marker": chain.MARKER.decode()}


if __name__ == "__main__":
    main()
