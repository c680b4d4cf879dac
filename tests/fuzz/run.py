"""Coverage-guided fuzzing of every surface with Atheris: `make fuzz ARGS="--seconds 60 --only tlv"`.

What is tried begins with the good inputs of `SURFACES`, and with what earlier runs thought worth keeping (in
``build/fuzz/NAME/corpus``). An input that raises is left in ``build/fuzz/NAME``; with the fix it goes into ``found`` of
its surface, where `test_fuzz_surfaces.py` keeps it.

Exit codes: 0 nothing was found, 1 something was, 2 Atheris is not there or a surface is not known.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

from tests.fuzz.surfaces import SURFACES

#: A peer's datagram, and more than one; a model file is larger, but what is wrong with it is not.
LONGEST = 4096
#: An input that takes longer is a finding, in seconds; and so is a process of more memory, in MiB.
SLOWEST = 10
MOST_MEMORY = 1024
_RUNS = re.compile(r"(?:Done|stat::number_of_executed_units:) (\d+)")


def _names(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in SURFACES]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(sorted(SURFACES))}")
    return names


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make fuzz", description="Fuzz what takes bytes of strangers, with Atheris.")
    parser.add_argument("--seconds", type=int, default=60, help="for each surface (default: %(default)s)")
    parser.add_argument("--only", type=_names, default=list(SURFACES), metavar="NAME,NAME", help="these surfaces only")
    parser.add_argument("--folder", type=Path, default=Path("build/fuzz"), help="default: %(default)s")
    return parser.parse_args()


def fuzz(name: str, seconds: int, folder: Path) -> Path | None:
    """Fuzz one surface; returns the input that raised, if one did."""
    here = folder / name
    corpus = here / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    surface = SURFACES[name]()
    for data in (*surface.good, *surface.found):
        (corpus / hashlib.sha1(data).hexdigest()).write_bytes(data)
    before = set(here.iterdir())
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.fuzz.drive", name, f"-max_total_time={seconds}", f"-max_len={LONGEST}"),
            *(f"-timeout={SLOWEST}", f"-rss_limit_mb={MOST_MEMORY}", f"-artifact_prefix={here}/"),
            *("-print_final_stats=1", str(corpus)),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    (here / "log").write_text(done.stdout)
    runs = max((int(count) for count in _RUNS.findall(done.stdout)), default=0)
    found = sorted(set(here.iterdir()) - before - {here / "log"})
    if done.returncode == 0 and not found:
        print(f"{name}: {runs:,} inputs in {seconds} s, nothing found", flush=True)
        return None
    print("\n".join(done.stdout.splitlines()[-40:]), flush=True)
    print(f"{name}: found after {runs:,} inputs: {found[0] if found else here / 'log'}", flush=True)
    return found[0] if found else here / "log"


def main() -> int:
    options = _options()
    if importlib.util.find_spec("atheris") is None:
        print("make fuzz: Atheris is not installed; `make fuzz` installs it where it has a wheel", file=sys.stderr)
        return 2
    found = [fuzz(name, options.seconds, options.folder) for name in options.only]
    return 1 if any(found) else 0


if __name__ == "__main__":
    sys.exit(main())
