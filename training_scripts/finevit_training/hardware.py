"""Devices that a run may be planned for: how fast and how large they are."""

from typing import NamedTuple

from finecap.nearest import did_you_mean


class Device(NamedTuple):
    """One accelerator: dense bfloat16 FLOP/s without sparsity, and memory in bytes, as its maker publishes them."""

    flops_per_second: float
    memory: float


DEVICES = {
    "A100-40G": Device(312e12, 40e9),
    "A100-80G": Device(312e12, 80e9),
    "L40S": Device(362e12, 48e9),
    "RTX4090": Device(165e12, 24e9),
    "H100": Device(989e12, 80e9),
    "H200": Device(989e12, 141e9),
    "B200": Device(2250e12, 192e9),
    "MI300X": Device(1307e12, 192e9),
}
# Share of that rate which is taken as reached; the highest published for an encoder of this size are 0.445 on A100 and
# 0.289 on H100 (NVIDIA NeMo's ViT-g/14).
ASSUMED_MFU = 0.35


def parse_hardware(asked: str) -> tuple[int, str, Device]:
    """ "8xH100" as a count, a name and what it is.

    Raises:
        ValueError: nobody knows it.
    """
    count, _, name = asked.rpartition("x") if asked[:1].isdigit() and "x" in asked else ("1", "", asked)
    known = {known.lower(): known for known in DEVICES}
    if not count.isdigit() or int(count) < 1 or name.lower() not in known:
        raise ValueError(
            f"dry_run is {asked!r}; expected a number and a device such as 8xH100, of {', '.join(DEVICES)}"
            f"{did_you_mean([name], list(DEVICES))}"
        )
    return int(count), known[name.lower()], DEVICES[known[name.lower()]]
