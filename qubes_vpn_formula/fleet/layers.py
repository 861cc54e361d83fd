# SPDX-License-Identifier: GPL-2.0-or-later
"""Pillar files merged into one, as Salt merges them, and where each value came from."""

import functools
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from qubes_vpn_formula import pillarfile
from qubes_vpn_formula.errors import UserError
from qubes_vpn_formula.pillarfile import PillarFile

#: Bytes of one file; the 1,000 endpoints that Qubes' firewall takes are 32 KiB.
_LARGEST = 1 << 20


def read(path: str) -> PillarFile:
    """A file of the fleet.  Raises UserError, also for what is no plain file."""
    try:
        mode = Path(path).lstat().st_mode
    except OSError:
        mode = stat.S_IFREG  # reading it says why not
    if not stat.S_ISREG(mode):
        what = "this is no plain file, but a link or a device"
        raise UserError(what, "Put the file itself there.", file=path)
    return pillarfile.read(path, _LARGEST)


def merge(old: Any, new: Any) -> Any:
    """*new* over *old*, neither of them changed: mappings key by key, all else is replaced.

    So does Salt with `pillar_source_merging_strategy: smart` and `pillar_merge_lists: False`, its
    defaults (salt/utils/dictupdate.py).
    """
    return _merge(old, new, {})


def _merge(old: Any, new: Any, done: dict[tuple[int, int], Any]) -> Any:
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        return new
    # Anchors lead to the same two again, and in anchors of anchors without end.
    pair = id(old), id(new)
    if pair not in done:
        done[pair] = {
            **old,
            **{
                key: _merge(old[key], value, done) if key in old else value
                for key, value in new.items()
            },
        }
    return done[pair]


class Layers:
    """A machine's files, the shared ones first."""

    def __init__(self, files: Sequence[PillarFile]) -> None:
        self._files = files

    @functools.cached_property
    def data(self) -> dict:
        """All of the pillar."""
        return functools.reduce(merge, (file.data for file in self._files))

    def place(self, path: Sequence[Any]) -> tuple[str, int]:
        """The file and line (from 1) that the value of key *path* came from.

        Of what is nowhere: the key above it, in the last file that has that one.
        """
        nodes = [(file, file.root) for file in self._files]
        where = nodes[-1][0].path, 1
        for key in path:
            below: list[tuple[PillarFile, yaml.Node]] = []
            for file, node in nodes:
                if (at := pillarfile.child(node, key)) is None:
                    continue
                mark, value = at
                where = file.path, mark.start_mark.line + 1
                if below and not (_is_mapping(below[-1][1]) and _is_mapping(value)):
                    below.clear()  # it is replaced
                below.append((file, value))
            if not below:
                break
            nodes = below
        return where


def _is_mapping(node: yaml.Node) -> bool:
    return isinstance(node, yaml.MappingNode)
