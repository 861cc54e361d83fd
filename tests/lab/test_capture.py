# SPDX-License-Identifier: GPL-2.0-or-later
"""A capture sees what leaves a qube, or says that it may not have (R90)."""

import shutil
import subprocess

import pytest
from cable import FAR, INTERNET, cable

from qubes_vpn_formula.lab import capture as capture_module
from qubes_vpn_formula.lab import senders
from qubes_vpn_formula.lab.capture import Capture, CaptureError
from qubes_vpn_formula.lab.oracle import Endpoint, Oracle
from qubes_vpn_formula.lab.traffic import Flood, Job, new_marker, send

MARKER = new_marker()
pytestmark = pytest.mark.usefixtures("namespaces")


@pytest.fixture(scope="module")
def qubes(namespaces):
    with cable() as both:
        yield both


@pytest.fixture
def file(tmp_path):
    return tmp_path / "cell.pcap"


def test_of_silence_is_closed(qubes, file):
    with Capture(*qubes, "vif1.0", file) as capture:
        verdict = Oracle([], MARKER).judge(capture.finish())
    assert verdict.outcome == "closed", verdict
    assert verdict.frames >= 2  # the control frames
    assert shutil.which("tcpdump")
    read = subprocess.run(["tcpdump", "-r", file], capture_output=True, text=True, check=True)
    assert "who-has" in read.stdout  # what a sceptic opens


def test_sees_a_leak_sent_at_once(qubes, file):
    near, far = qubes
    with Capture(near, far, "vif1.0", file) as capture:
        send(near, senders.udp(INTERNET[0], 53, MARKER))
        verdict = Oracle([], MARKER).judge(capture.finish())
    assert verdict.outcome == "LEAK"
    assert f"to {INTERNET[0]}:53 (DNS)" in str(verdict)


def test_does_not_see_what_comes_the_other_way(qubes, file):
    near, far = qubes
    with Capture(near, far, "vif1.0", file) as capture:
        send(far, senders.udp("10.137.0.20", 53, MARKER))
        captured = capture.finish()
    # The near qube's answer, port unreachable, quotes it.
    assert [frame.data[23] for frame in captured.marked(MARKER)] == [1]


def test_a_made_up_mac_address_hides_nothing(qubes, file):
    near, far = qubes
    frame = bytes.fromhex("feffffffffff feffffffffff 88b5") + MARKER
    with Capture(near, far, "vif1.0", file) as capture:
        send(near, Job("frame", [frame], device="eth0"))
        assert len(capture.finish().marked(MARKER)) == 1


def test_without_the_control_frame_is_an_error(qubes, file):
    """R90. A cable that is pulled and a capture that has died both look like silence."""
    near, far = qubes
    with Capture(near, far, "vif1.0", file) as capture:
        near.run("ip link set eth0 down")
        try:
            verdict = Oracle([], MARKER).judge(capture.finish())
        finally:
            near.run(
                "ip link set eth0 up; ip -6 addr add fd09:24ef:4179::a89:14/128 dev eth0 nodad"
            )
            near.run(f"ip route replace default via {FAR[0]} dev eth0 onlink")
            near.run(f"ip route replace default via {FAR[1]} dev eth0 onlink")
    assert verdict.outcome == "error"
    assert "at the end" in verdict.trouble


def test_a_control_frame_leaves_a_renamed_uplink(file):
    with cable() as (near, far), Capture(near, far, "vif1.0", file) as capture:
        near.run("ip link set eth0 down; ip link set eth0 name tun0 group 2 up")
        assert capture.finish().trouble == ""


def test_goes_on_when_the_uplink_was_down(file):
    with cable() as (near, far), Capture(near, far, "vif1.0", file) as capture:
        near.run("ip link set eth0 down; ip link set eth0 up")
        near.run(f"ip route add default via {FAR[0]} dev eth0 onlink")
        send(near, senders.udp(INTERNET[0], 53, MARKER))
        assert len(capture.finish().marked(MARKER)) == 1


def test_of_a_cable_that_is_pulled_keeps_what_came_before(file):
    with cable() as (near, far), Capture(near, far, "vif1.0", file) as capture:
        send(near, senders.udp(INTERNET[0], 53, MARKER))
        far.run("ip link del vif1.0")
        captured = capture.finish(proven=False)
    assert captured.trouble == ""
    assert len(captured.marked(MARKER)) == 1


def test_on_no_device_is_refused(qubes, file):
    with pytest.raises(CaptureError, match=r"vif9\.0"):
        Capture(*qubes, "vif9.0", file)


def test_loses_nothing_in_a_flood(qubes, file):
    """R90: what is counted in a flood is what was sent."""
    near, far = qubes
    with Capture(near, far, "vif1.0", file) as capture:
        flood = Flood(near, senders.udp(INTERNET[0], 9, MARKER + bytes(1200), rate=5000))
        with flood:
            near.run(["sleep", "1"])
            sent = flood.stop()
        captured = capture.finish()
    assert sent.packets > 2000
    assert captured.trouble == ""
    arrived = [frame for frame in captured.marked(MARKER) if frame.data[23] == 17]
    assert len(arrived) == sent.packets


def test_that_the_kernel_cut_short_is_an_error(qubes, file, monkeypatch):
    """R90. More arrives than the kernel keeps for tcpdump."""
    near, far = qubes
    monkeypatch.setattr(capture_module, "_BUFFER", 8)
    with Capture(near, far, "vif1.0", file) as capture:
        send(near, senders.udp(INTERNET[0], 9, bytes(100), count=20000))
        verdict = Oracle([Endpoint("udp", INTERNET[0], 9)], MARKER).judge(capture.finish())
    assert verdict.outcome == "error"
    assert "dropped by kernel" in verdict.trouble


def test_a_flood_to_an_endpoint_is_judged_quickly(qubes, file):
    """Encrypted packets in great number are the usual case."""
    near, far = qubes
    endpoint = Endpoint("udp", INTERNET[0], 9)
    with Capture(near, far, "vif1.0", file) as capture:
        send(near, senders.udp(INTERNET[0], 9, bytes(1000), count=10000))
        captured = capture.finish()
    verdict = Oracle([endpoint], MARKER).judge(captured)
    assert verdict.outcome == "closed", verdict
    assert verdict.frames > 9000
