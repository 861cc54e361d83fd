# SPDX-License-Identifier: GPL-2.0-or-later
"""The killswitch on other kernels, in small virtual machines.

What the machine's own kernel may not have (flowtables, WireGuard) and what differs between kernels
and versions of nft is tried here: Debian's kernel and programs of a release, emulated by QEMU, with
the scenarios of ``guest/``.  Everything lies in the initial RAM disk: no disk, no network card.
"""
