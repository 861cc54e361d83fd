# SPDX-License-Identifier: GPL-2.0-or-later
"""Values of OpenVPN's options that weaken a tunnel: in words, and whether it is still taken.

Meanings: openvpn(8) of OpenVPN 2.7, ciphers(1) of OpenSSL 3.  Refused is what takes the encryption,
the authentication or a sound TLS away; what providers still have and merely is old is said.
"""

import re

#: 64-bit blocks: a day of one connection is enough to read parts of it (SWEET32).
_SHORT = re.compile(r"(bf|blowfish|cast5?|des|des3|desx|idea|rc2)(-|\Z)", re.IGNORECASE)
_CIPHERS = ("cipher", "data-ciphers", "data-ciphers-fallback", "ncp-ciphers")
#: Parts of names in a list of TLS ciphers: nobody proves who he is, nothing is encrypted, or what
#: was broken long ago.
_BROKEN = {
    "adh",
    "aecdh",
    "anon",
    "anull",
    "complementofall",
    "des",
    "enull",
    "exp",
    "export",
    "low",
    "md5",
    "null",
    "rc2",
    "rc4",
}


def weakened(name, value):
    """``(text, danger, refused, fix)`` of the option *name* with *value*, or None when it is sound.

    The fix may be left out.
    """
    items = [item.lstrip("?").lower() for item in value.split(":")]
    if name in _CIPHERS:
        if {"none", "null"} & set(items):
            return f"'{'none' if 'none' in items else 'null'}' means no encryption", True, True
        if any(map(_SHORT.match, items)):
            return "a cipher of 64-bit blocks, which can be read in part (SWEET32)", True, False
    elif name == "auth":
        if value.lower() in ("none", "null"):
            return "packets are not authenticated: others could change them on the way", True, True
        if value.lower() in ("md4", "md5", "rsa-md4", "rsa-md5"):
            return "an old hash that is broken elsewhere; ask for SHA256", True, False
    elif name in ("tls-version-max", "tls-version-min"):
        return _version(name, value)
    elif name == "tls-cipher":
        return _tls_cipher(items)
    elif name == "tls-cert-profile" and value.lower() in ("insecure", "legacy"):
        what = f"'{value.lower()}' lets the server have a weak certificate; it is not taken over"
        return what, True, False
    return None


def _version(name, value):
    if value not in ("1.0", "1.1"):
        return None
    if name == "tls-version-max":
        return f"TLS {value} at most, which is broken: 1.2 is the least that is safe", True, True
    return f"allows TLS {value}, which is broken: 1.2 is the least that is safe", True, False


def _tls_cipher(items):
    wanted = [item for item in items if item[:1] not in ("!", "-")]
    parts = {part for item in wanted for part in re.split(r"[-_+]", item)}
    if parts & _BROKEN:
        return "TLS ciphers without authentication or encryption, or broken ones", True, True
    if "@seclevel=0" in wanted:
        what = "OpenSSL takes keys and hashes of any weakness with SECLEVEL=0"
        return what, True, True, "Remove the line: a server whose certificate is sound needs none."
    if "@seclevel=1" in wanted:
        return "OpenSSL takes weaker keys and hashes with SECLEVEL=1", True, False
    return None
