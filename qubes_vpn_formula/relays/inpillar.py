# SPDX-License-Identifier: GPL-2.0-or-later
"""A tunnel's endpoints and its selection in the text of a pillar, edited so that comments stay."""

import yaml

import qubes_vpn_pillaredit
import qubes_vpn_relays
from qubes_vpn_formula.errors import UserError
from qubes_vpn_formula.relays.selection import Selection
from qubes_vpn_problem import suggest


def edited(file, text, name, chosen):
    """*text*, of *file*, with *chosen* as endpoints and selection of the tunnel *name*."""
    try:
        return _edited(text, name, chosen)
    except UserError as error:
        raise UserError(error.what, error.fix, file=file, key=error.key) from None


def _edited(text, name, chosen):
    path = ("qubes_vpn", "tunnels", name)
    items = [(found.text, found.origin) for found in chosen.endpoints]
    text = qubes_vpn_pillaredit.put_list(text, (*path, "endpoints"), items)
    said = chosen.as_pillar()
    had = yaml.load(text, yaml.CSafeLoader)["qubes_vpn"]["tunnels"][name].get("relays")
    if not had:
        return qubes_vpn_pillaredit.put(text, (*path, "relays"), said)
    for key in had.keys() - said.keys():
        text = qubes_vpn_pillaredit.delete(text, (*path, "relays", key))
    for key, value in said.items():  # one by one, for the comments between them
        if key not in had or had[key] != value:
            text = qubes_vpn_pillaredit.put(text, (*path, "relays", key), value)
    return text


def tunnel(file, name):
    """The tunnel *name* of a pillar file, as the model has it; raises :class:`UserError`."""
    tunnels = file.model.tunnels() if file.model else []
    if name not in tunnels:
        fix = suggest(name, tunnels)
        raise UserError(f"there is no tunnel '{name}'", fix, file=file.path, key="--tunnel")
    return file.model.services[name]


def selected(file, kind=None, name=None):
    """The tunnels with a selection (of a list *kind*, called *name*); raises `UserError`."""
    if name:
        tunnels = [tunnel(file, name)]
    else:
        tunnels = [tunnel(file, each) for each in (file.model.tunnels() if file.model else ())]
    with_one = [each for each in tunnels if each.relays and each.endpoints]
    found = [each for each in with_one if kind in (None, each.relays["list"])]
    if not found:
        of = f" of a list '{kind}'" if with_one else ""
        raise UserError(
            f"no tunnel has 'relays'{of}",
            "Choose first: qubes-vpn relays --from LIST --into FILE --tunnel QUBE.",
            file=file.path,
        )
    return found


def selection(service):
    """The :class:`Selection` of a tunnel that has one."""
    return Selection.of_pillar(service.relays)


def is_as_taken(service):
    """Whether neither endpoints nor selection were edited since."""
    return qubes_vpn_relays.checksum(service.relays, service.endpoints) == service.relays["sha256"]
