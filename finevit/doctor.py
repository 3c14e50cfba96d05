"""`finevit doctor`: what this machine has and can do for FineViT, and what to mend."""

import platform
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import NamedTuple

import torch
from huggingface_hub import constants, get_token
from huggingface_hub.utils import get_session
from packaging.requirements import Requirement

from finecap.made_with import cpu_name, usable_cores
from modeling_finevit import FineViTConfig, FineViTModel

DISTRIBUTION = "finevit"
COLLECTIONS = ("demo", "dev")
"""Extras that are made of other ones."""
IMPLEMENTATIONS = ("sdpa", "torch_varlen", "flash_attention_2", "flex_attention")
ON_CPU = {"torch_varlen": "its kernel needs CUDA", "flex_attention": "it has no backward on the CPU"}
"""Why `sdpa` computes in the place of some there."""
GRID = ((1, 4, 6), (1, 8, 2))
"""Patches of two pictures of different sizes."""
LARGEST_DIFFERENCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}
"""From eager attention, in features of about 1."""
LITTLE_DISK = 10 * 2**30
SECONDS = 5.0


class Finding(NamedTuple):
    """A line of the report. `mend`: what is wrong and how to put it right; empty where nothing is."""

    topic: str
    name: str
    said: str
    mend: str = ""


def doctor() -> int:
    """Prints what was found.

    Returns:
        The exit status: 1 if something has to be mended.
    """
    findings: list[Finding] = []
    for finding in examine():
        if not findings or findings[-1].topic != finding.topic:
            print(f"{finding.topic}", flush=True)
        print(f"  {finding.name:<20} {finding.said}", flush=True)
        findings.append(finding)
    to_mend = [finding.mend for finding in findings if finding.mend]
    print("To mend" if to_mend else "Nothing to mend")
    for mend in to_mend:
        print(f"  {mend}")
    return 1 if to_mend else 0


def examine() -> Iterator[Finding]:
    """All findings, topic by topic."""
    yield from packages()
    yield from extras()
    yield from devices()
    yield from attention("cuda" if torch.cuda.is_available() else "cpu")
    yield from disk(Path.cwd(), Path(constants.HF_HOME))
    yield hub(constants.ENDPOINT)


def packages() -> Iterator[Finding]:
    """Python, this package, and what it cannot do without."""
    yield Finding("Versions", "python", f"{platform.python_version()}, {sys.executable}")
    yield Finding("Versions", DISTRIBUTION, version(DISTRIBUTION))
    for needed in _requirements():
        if needed.marker is None:
            said, wrong = _installed(needed)
            mend = f"pip install '{needed}' ({needed.name} is {said})" if wrong else ""
            yield Finding("Versions", needed.name, said, mend)


def extras() -> Iterator[Finding]:
    """Which parts of the project have all they need; that one has not is no fault."""
    for extra in sorted(distribution(DISTRIBUTION).metadata.get_all("Provides-Extra") or ()):
        needed = [one for one in _requirements() if one.marker and one.marker.evaluate({"extra": extra})]
        lacking = [f"{one.name} ({said})" for one in needed for said, wrong in [_installed(one)] if wrong]
        if extra not in COLLECTIONS:
            said = f"lacks {', '.join(lacking)}: pip install '{DISTRIBUTION}[{extra}]'" if lacking else "installed"
            yield Finding("Extras", extra, said)


def _requirements() -> list[Requirement]:
    return [Requirement(line) for line in distribution(DISTRIBUTION).requires or ()]


def _installed(needed: Requirement) -> tuple[str, bool]:
    """The installed version, and whether it is missing or outside of what is needed."""
    try:
        found = version(needed.name)
    except PackageNotFoundError:
        return "not installed", True
    fits = needed.specifier.contains(found, prereleases=True)
    return found if fits else f"{found}, expected {needed.specifier}", not fits


def devices() -> Iterator[Finding]:
    """What computes here."""
    yield Finding("Devices", "cpu", f"{cpu_name()}, {usable_cores()} cores, {torch.get_num_threads()} threads")
    for at in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(at)
        dtypes = "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no bfloat16"
        yield Finding("Devices", f"cuda:{at}", f"{facts.name}, {facts.total_memory / 2**30:.0f} GiB, {dtypes}")
    if torch.backends.mps.is_available():
        yield Finding("Devices", "mps", "Apple's GPU")
    if torch.version.cuda and not torch.cuda.is_available():
        yield Finding("Devices", "cuda", f"none, though this torch is built for CUDA {torch.version.cuda}")


def attention(device: str) -> Iterator[Finding]:
    """Tries each implementation with the encoder, forward and backward, against eager attention."""
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    topic = f"Attention of the encoder ({device}, {str(dtype).removeprefix('torch.')}, forward and backward)"
    expected = _features("eager", device, dtype)
    for name in IMPLEMENTATIONS:
        try:
            difference = (_features(name, device, dtype) - expected).abs().max().item()
        except (ImportError, ValueError, RuntimeError) as error:
            yield Finding(topic, name, f"not here: {str(error).strip().splitlines()[0]}")
            continue
        said = f"works, at most {difference:.0e} from eager"
        if device == "cpu" and name in ON_CPU:
            said += f" (by sdpa: {ON_CPU[name]})"
        wrong = not difference <= LARGEST_DIFFERENCE[dtype]
        mend = f"{name} gives other features than eager on this {device}: leave it, and report it"
        yield Finding(topic, name, f"WRONG, {difference:.0e} from eager" if wrong else said, mend if wrong else "")


def _features(implementation: str, device: str, dtype: torch.dtype) -> torch.Tensor:
    """Of two made-up pictures by a random nano encoder that is the same each time; the generator is left as it was."""
    grid = torch.tensor(GRID)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = FineViTModel._from_config(FineViTConfig.from_size("nano"), attn_implementation=implementation)
        pixels = torch.randn(int(grid.prod(-1).sum()), 3 * 14 * 14)
    model = model.to(device, dtype)
    features = model(pixels.to(device, dtype), image_grid_thw=grid).last_hidden_state
    features.float().square().mean().backward()
    return features.detach().float().cpu()


def disk(*folders: Path) -> Iterator[Finding]:
    """Free space where runs and the Hub's files go."""
    for folder in folders:
        there = next(place for place in (folder, *folder.parents) if place.exists())
        free = shutil.disk_usage(there).free
        mend = f"{folder} has {free / 2**30:.1f} GiB free: make room" if free < LITTLE_DISK else ""
        yield Finding("Disk", f"{free / 2**30:.0f} GiB free", f"{folder}", mend)


def hub(endpoint: str) -> Finding:
    """Whether the Hub answers; that it does not is no fault, since local folders take its place everywhere."""
    if constants.HF_HUB_OFFLINE:
        return Finding("Hub", "not asked", "HF_HUB_OFFLINE is set")
    login = "logged in" if get_token() else "not logged in (gated models need `hf auth login`)"
    try:
        status = get_session().head(endpoint, timeout=SECONDS).status_code
    except Exception as error:  # of whichever library asks, and whatever is in the way
        return Finding("Hub", "does not answer", f"{endpoint}: {type(error).__name__}; take local folders. {login}")
    return Finding("Hub", "answers" if status < 500 else f"answers {status}", f"{endpoint}; {login}")
