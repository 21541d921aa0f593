"""Who leads when cameras are linked."""

from quantvggt.viewer.live.link import Lead


def test_followers_echo_and_are_not_followed() -> None:
    now = 0.0
    lead = Lead(hold=0.4, clock=lambda: now)
    assert lead.takes("left")
    for _ in range(20):
        now += 0.1
        assert lead.takes("left")
        assert not lead.takes("right")  # reports the pose that it was given
    now += 0.3
    assert not lead.takes("right")
    now += 0.2  # the left one has been still for half a second
    assert lead.takes("right")
    assert not lead.takes("left")
