"""Fuzz one loader: `python -m tests.fuzz TARGET FOLDER [-max_total_time=120 ...]`, by atheris.

TARGET is a name in `targets.TARGETS`. FOLDER keeps the inputs that reach new code, from one run to
the next; the first gets the seeds. An input that is not refused by a ValueError, takes more than 20
seconds or 3 GiB is written into it as `crash-...`, `timeout-...` or `oom-...`. What follows is for
libFuzzer. `python -m tests.fuzz TARGET FILE` shows what one input does.
"""

import logging
import sys
import warnings
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["sklearn_cpc", "PIL", "tifffile"]):
    from .targets import TARGETS

LIMITS = ("-timeout=20", "-rss_limit_mb=3072", "-max_len=65536")


def main(name, place, *options):
    target = TARGETS[name]()
    warnings.simplefilter("ignore")
    logging.disable()
    place = Path(place)
    if place.is_file():
        return target.run(place.read_bytes())
    place.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds()):
        (place / f"seed-{number:03}").write_bytes(seed)
    settings = [f"-artifact_prefix={place}/", *LIMITS, *options, str(place)]
    mutate = {"custom_mutator": target.mutated} if hasattr(target, "mutated") else {}
    atheris.Setup([sys.argv[0], *settings], target.run, **mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
