# SPDX-License-Identifier: GPL-2.0-or-later
"""Rule sets from nft's text: the kernel and nft say themselves what is loaded."""

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from qubes_vpn_formula.errors import UserError
from qubes_vpn_formula.prove import bytecode

_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
_SCRIPT = """set -e
ip -batch links
for text in "$@"; do nft -f "$text"; done
nft -j list ruleset >rules
nft -a -t --debug=netlink list ruleset >>rules
"""
_TABLE = re.compile(r"table (\S+) (\S+) \{")
_CHAIN = re.compile(r"\tchain (\S+) \{")
_RULE = re.compile(r"\t\t(.*) # handle (\d+)")
_HOOKED = re.compile(r'hook (?:in|e)gress (?:device "(.*?)"|devices = \{ (.*?) \}) priority')
#: Seconds; 50,000 elements take nft two.
_PATIENCE = 60


class Link(NamedTuple):
    """A device that exists while a text is loaded.  kind: veth or tun."""

    name: str
    group: int = 0
    kind: str = "veth"


def listing(texts: Sequence[str], links: Sequence[Link] = ()) -> dict[str, Any]:
    """The rules after *texts* were loaded, one by one, in a namespace of its own.

    Each text is one transaction.  Raises UserError with nft's words, and NotModelled.
    """
    try:
        return document(said(texts, links))
    except ValueError:  # nft 1.0.6 stops in the middle, at flags of a table
        raise UserError("nft does not list the rules", "Take table flags out.") from None


def document(text: str) -> dict[str, Any]:
    """`nft -j list ruleset` with all that is known of the rules, from what :func:`said` gives.

    Raises ValueError where it is no JSON, NotModelled, and anything where it is not nft's.
    """
    text = text.lstrip()
    found, end = json.JSONDecoder().raw_decode(text)
    complete(found, text[end:])
    return found


def said(texts: Sequence[str], links: Sequence[Link] = ()) -> str:
    """What nft says after *texts* were loaded as :func:`listing` has it: JSON, and text behind it.

    The JSON is `nft -j list ruleset`, the text `nft -a -t --debug=netlink list ruleset`.  Raises
    UserError with nft's words.
    """
    with tempfile.TemporaryDirectory(prefix="qubes-vpn-rules-") as path:
        folder = Path(path)
        (folder / "links").write_text("".join(_lines(link) for link in links))
        names = [f"{number}.nft" for number in range(len(texts))]
        for name, text in zip(names, texts, strict=True):
            (folder / name).write_text(text)
        alone = ["unshare", "--net", *_unprivileged(), "sh", "-c", _SCRIPT, "sh", *names]
        try:
            done = subprocess.run(
                alone,
                cwd=folder,
                env=_ENVIRONMENT,
                capture_output=True,
                text=True,
                check=False,
                timeout=_PATIENCE,
            )
        except FileNotFoundError:
            raise UserError("unshare cannot be found", "Install util-linux.") from None
        except subprocess.TimeoutExpired:
            raise UserError("the rules take nft longer than a minute", "Load fewer.") from None
        if done.returncode:
            words = done.stderr.strip().splitlines() or [f"exit {done.returncode}"]
            raise UserError(
                f"the rules cannot be loaded: {words[0]}",
                "Install nftables and iproute2, or mend the rules.",
            )
        return (folder / "rules").read_text()


def _unprivileged() -> list[str]:
    return [] if os.geteuid() == 0 else ["--user", "--map-root-user"]


def _lines(link: Link) -> str:
    """For `ip -batch`."""
    if link.kind == "tun":
        made = f"tuntap add mode tun name {link.name}\n"
    else:
        made = f"link add {link.name} type {link.kind}\n"
    return f"{made}link set {link.name} group {link.group}\n"


def complete(document: dict[str, Any], text: str) -> None:
    """What is not in the JSON of nft 1.0.6: devices, flags, a rule's words, protocols.

    text: what `nft -a -t --debug=netlink list ruleset` says; whether a rule is "complete" it alone
    decides, whatever the JSON has.  Raises NotModelled.
    """
    rules, devices, flags = _read(text)
    protocols = bytecode.compared(text)
    for entry in document["nftables"]:
        for kind, data in entry.items():
            place = data.get("family"), data.get("table")
            if kind == "rule":
                data["text"] = rules.get((*place, data["handle"]), "")
                code = protocols.get((*place, data["chain"], data["handle"]))
                data["complete"] = code is not None
                if code is not None:
                    bytecode.put_back(data, code)
            elif kind == "chain" and (*place, data["name"]) in devices:
                data["dev"] = devices[*place, data["name"]]
            elif kind == "table" and (place[0], data["name"]) in flags:
                data["flags"] = flags[place[0], data["name"]]


def _read(text: str) -> tuple[dict, dict, dict]:
    rules, devices, flags = {}, {}, {}
    place, chain = ("", ""), ""
    for line in text.splitlines():
        if found := _TABLE.match(line):
            place = found[1], found[2]
        elif found := _CHAIN.match(line):
            chain = found[1]
        elif line.startswith("\tflags "):
            flags[place] = line.split()[1:]
        elif found := _HOOKED.search(line):
            names = found[1] or found[2]
            devices[*place, chain] = [name.strip('" ') for name in names.split(",")]
        elif found := _RULE.match(line):
            rules[*place, int(found[2])] = found[1]
    return rules, devices, flags
