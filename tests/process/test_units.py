"""Numbers with units."""

from trainer.process.units import format_bytes, format_duration, format_flops, format_macs, rough_duration


def test_numbers_have_units_and_three_digits() -> None:
    assert [format_bytes(count) for count in (0, 999, 999.7, 1234, 99_960, 9_996_000, 2.5e12)] == [
        "0 bytes", "999 bytes", "1.00 kB", "1.23 kB", "100 kB", "10.0 MB", "2.50 TB",
    ]  # fmt: skip
    assert format_flops(8_178_368_512) == "8.18 GFLOPs"
    assert format_macs(8_178_368_512) == "4.09 GMACs"
    assert [format_duration(seconds) for seconds in (0.00025, 1.5, 90, 7300, 86400 * 4000)] == [
        "0.25 ms", "1.5 s", "90 s", "2.03 h", "4,000 days",
    ]  # fmt: skip


def test_rough_duration_is_in_minutes_from_two_on() -> None:
    assert [rough_duration(seconds) for seconds in (0.4, 119, 120, 1800)] == [
        "0 s", "119 s", "2 minutes", "30 minutes",
    ]  # fmt: skip
