# SPDX-License-Identifier: GPL-2.0-or-later
"""What is different since an older list, a pillar, or a file that ``--output`` wrote."""

from qubes_vpn_formula import pillarfile
from qubes_vpn_formula.errors import UserError
from qubes_vpn_formula.relays import chosen, datafile, difference, inpillar, reading
from qubes_vpn_formula.relays.selection import Selection, fitting_any


def changes(path, listed, wishes, tunnel):
    """The :class:`difference.Change` list from the file *path* to the list *listed*.

    wishes: a :class:`Selection`; a pillar and a file have their own.  tunnel: of a pillar, or None
    for each that has a selection.  Raises :class:`UserError`.
    """
    text = reading.text_of(path)
    if datafile.is_one(text):
        relays, old = datafile.read(path)
        selections = [(old, _own(Selection.of_pillar(relays), wishes, path))]
    elif "qubes_vpn:" in text:
        file = pillarfile.read(path)
        selections = [
            (service.endpoints, _own(inpillar.selection(service), wishes, path))
            for service in inpillar.selected(file, listed.kind, tunnel)
        ]
    else:
        return _relays(reading.read(path), listed, wishes)
    found = []
    for old, own in selections:
        new = chosen.choose(listed, own, "2000-01-01").destinations
        found += [_told(change, listed) for change in difference.of_endpoints(old, new)]
    return found


def _own(own, wishes, path):
    if wishes != Selection():
        what = "it has a selection of its own"
        raise UserError(what, "Leave out the options that choose relays.", file=path)
    return own


def _relays(old, new, wishes):
    """Of relays that fit *wishes* in either list."""
    if old.kind != new.kind:
        what = f"a list '{old.kind}', and {new.path} is one '{new.kind}'"
        raise UserError(what, "Compare lists of one provider.", file=old.path)
    fit = {relay.hostname for listed in (old, new) for relay in fitting_any(listed.relays, wishes)}
    before, after = (
        [relay for relay in listed.relays if relay.hostname in fit] for listed in (old, new)
    )
    return difference.of_lists(before, after)


def _told(change, listed):
    """*change*, with what the list says of that address."""
    address = change.name.partition("/")[0].rpartition(":")[0].strip("[]")
    for relay in listed.relays:
        if address in map(str, (*relay.addresses, *relay.shadowsocks, *relay.quic)):
            why = "" if relay.active else ", which is inactive"
            return change._replace(what=f"it is {relay.hostname}{why}")
    what = "no relay of the list has it" if change.kind == "went" else "it is no relay's"
    return change._replace(what=what)
