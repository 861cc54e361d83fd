# SPDX-License-Identifier: GPL-2.0-or-later
"""What a profile of either kind becomes, and what both kinds say to NetworkManager."""

from typing import NamedTuple

#: All names are asked for through the tunnel: a negative priority leaves out every other
#: connection's resolvers, and ``~.`` means every domain (nm-settings(5), ipv4.dns-priority).
DNS = {"dns-priority": "-50", "dns-search": "~.;"}
#: An IP version that the tunnel does not have; what the uplink would carry of it instead is for
#: the killswitch to stop.
OFF = {"method": "disabled"}


class Made(NamedTuple):
    """sections: name -> key -> text or None.  files: path -> bytes.  findings: of the making."""

    sections: dict
    files: dict
    findings: list
