# SPDX-License-Identifier: GPL-2.0-or-later
"""The folder of a fleet: a file for each machine, and `base.sls` for what machines share."""

import os
import re
from pathlib import Path
from typing import NamedTuple

from qubes_vpn_formula.errors import UserError

#: What the machines of a folder share, and those of the folders in it.
BASE = "base.sls"
#: Folders in folders.
_DEEPEST = 8
_ENDING = ".sls"
#: Endings that were meant to be a pillar's.
_MISTAKEN = (".yml", ".yaml", ".json")
#: A minion's name that is no pattern in a top file, and stays inside a folder as a file's name.
_NAME = re.compile(r"(?=.{1,128}\Z)[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*\Z")


class Machine(NamedTuple):
    """name: the minion's.  files: the paths of what its pillar is merged from, its own last."""

    name: str
    files: tuple[str, ...]


def find(top: str) -> tuple[list[Machine], list[UserError]]:
    """The machines in the folder *top* by name, and what in it cannot be one.

    Raises UserError when there is no such folder, or nothing in it.
    """
    if not Path(top).is_dir():
        raise UserError("this is no folder", "Name the folder of the machines' files.", file=top)
    found: list[Machine] = []
    errors: list[UserError] = []
    unread: list[OSError] = []
    for folder, folders, names in os.walk(top, onerror=unread.append):
        here = Path(folder)
        errors += _folders(here, folders, len(here.relative_to(top).parts))
        shared = tuple(str(path) for path in _bases(Path(top), here))
        for name in sorted(names):
            if name == BASE or name.startswith("."):
                continue
            if error := _wrong(here / name):
                errors.append(error)
            elif name.endswith(_ENDING):
                own = str(here / name)
                found.append(Machine(name.removesuffix(_ENDING), (*shared, own)))
    unique, doubles = _alone(found)
    errors += [*doubles, *map(_unread, unread)]
    if not unique and not errors:
        what = "there is no machine in it"
        raise UserError(what, f"Write a file NAME{_ENDING} for each.", file=top)
    return unique, errors


def _folders(here: Path, folders: list[str], depth: int) -> list[UserError]:
    """Sorts *folders* and leaves only those that are gone into; what is wrong with the others."""
    errors, kept = [], []
    for name in sorted(folders):
        path = here / name
        if name.startswith("."):
            continue
        if path.is_symlink():
            what = "a link: what it leads to may be another machine's, or nobody's"
            errors.append(UserError(what, "Put the folder itself there.", file=str(path)))
        elif depth == _DEEPEST:
            errors.append(UserError("too deep in folders", "Move it further up.", file=str(path)))
        else:
            kept.append(name)
    folders[:] = kept
    return errors


def _bases(top: Path, here: Path) -> list[Path]:
    """What machines in the folder *here* share, from the folder *top* down."""
    parts = here.relative_to(top).parts
    folders = [top.joinpath(*parts[:count]) for count in range(len(parts) + 1)]
    return [folder / BASE for folder in folders if os.path.lexists(folder / BASE)]


def _wrong(path: Path) -> UserError | None:
    """Why the file *path* is no machine's; None when it is one, or nothing of ours."""
    if path.name.endswith(_MISTAKEN):
        what = "a machine's file ends in .sls"
        return UserError(what, "Rename it, or give it another place.", file=str(path))
    if not path.name.endswith(_ENDING):
        return None
    name = path.name.removesuffix(_ENDING)
    if name == "top":
        what = "Salt's top file belongs to the tree that is built"
        return UserError(what, "Take it away: build writes one.", file=str(path))
    # A folder's own file in Salt's tree is called init.sls.
    if not _NAME.match(name) or "init" in name.split("."):
        what = "a machine cannot have this name"
        fix = "Take a Salt minion's name: letters, digits, '-', '_', and dots; not 'init'."
        return UserError(what, fix, file=str(path))
    return None


def _alone(found: list[Machine]) -> tuple[list[Machine], list[UserError]]:
    """Machines whose name is theirs alone, by name, and an error for each of the others."""
    by_name: dict[str, list[Machine]] = {}
    for machine in found:
        by_name.setdefault(machine.name.lower(), []).append(machine)
    alone, errors = [], []
    for same in by_name.values():
        if len(same) == 1:
            alone += same
            continue
        for machine in same:
            other = next(one for one in same if one is not machine).files[-1]
            what = f"two machines of one name: {other} is the other"
            errors.append(UserError(what, "Rename or remove one.", file=machine.files[-1]))
    return sorted(alone), errors


def _unread(error: OSError) -> UserError:
    reason = (error.strerror or "it failed").lower()
    return UserError(f"cannot be read: {reason}", "Check its mode.", file=str(error.filename))
