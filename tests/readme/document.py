# SPDX-License-Identifier: GPL-2.0-or-later
"""README.md and other pages as a user copies from them: commands, and the output they promise."""

import re
from dataclasses import dataclass

#: Commands in sentences for a qube: how a profile gets there (needs Xen), how the tunnel is.
#: tests/booted/test_tunnel.py runs the second, and what :data:`LOGIN` has.
IN_A_QUBE = ("qvm-copy wg-se.conf", "sudo /usr/lib/qubes-vpn/tunnel status")
#: The section with the commands for `sys-vpn`: two that put a profile there, one for the account.
LOGIN = "Bring the login into the VPN qube"


@dataclass(frozen=True)
class Block:
    """One block of code.

    section: the heading above it.  kind: what the fence says, `indented` for one without a fence.
    lines: as they are copied.
    """

    section: str
    kind: str
    lines: tuple[str, ...]


class Document:
    """The blocks and the code in sentences of a Markdown text."""

    def __init__(self, text: str) -> None:
        self.blocks: list[Block] = []
        section, rest, lines = "", [], iter(text.splitlines())
        for line in lines:
            if line.startswith("#"):
                section = line.lstrip("# ")
            elif line.lstrip().startswith("```"):  # set in, too: in a list
                indent = len(line) - len(line.lstrip())
                inside = tuple(iter(lambda indent=indent: next(lines)[indent:], "```"))
                self.blocks.append(Block(section, line.strip(" `"), inside))
            elif line.startswith("    "):
                self.blocks.append(Block(section, "indented", (line.strip(),)))
            else:
                rest.append(line)
        #: `code` in sentences
        self.spans = set(re.findall(r"`([^`]+)`", "\n".join(rest)))

    def commands(self, section: str) -> list[str]:
        """All command lines of a section, in order."""
        return [
            line
            for block in self.blocks
            if block.section == section and block.kind != "text"
            for line in block.lines
        ]

    def output(self, section: str) -> str:
        """The one example of output in a section."""
        (block,) = [one for one in self.blocks if (one.section, one.kind) == (section, "text")]
        return "".join(f"{line}\n" for line in block.lines)
