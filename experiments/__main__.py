"""`python -m experiments NAME…` runs experiments by name, `python -m experiments all` all of them.

Each module of this folder is one; its docstring says what it is and its first lines what is set.
Each runs in a process of its own: precision and devices, once set, are set for the whole process.
"""

import subprocess
import sys
import time

NAMES = (
    "curves", "value_curves", "dynamics", "derivatives", "rationality_sweep", "mechanisms",
    "todays_market", "population", "incentives", "survival", "learning", "routing",
    "design_reserve", "lab_market", "entry_and_margin",
)  # fmt: skip


def main(arguments: list[str]) -> int:
    if {"-h", "--help"} & set(arguments):
        print(f"python -m experiments all, or some of {', '.join(NAMES)}")
        return 0
    names = NAMES if "all" in arguments else tuple(dict.fromkeys(arguments))
    unknown = [name for name in arguments if name not in (*NAMES, "all")]
    if unknown or not names:
        said = f"no experiment {unknown[0]}" if unknown else "name an experiment"
        print(f"experiments: {said}; there are {', '.join(NAMES)}, or all", file=sys.stderr)
        return 2
    failed = []
    for number, name in enumerate(names, 1):
        began = time.perf_counter()
        print(f"[{number}/{len(names)}] {name}", flush=True)
        if subprocess.run([sys.executable, "-m", f"experiments.{name}"]).returncode:
            failed.append(name)
        print(f"  {time.perf_counter() - began:.0f} s", flush=True)
    if failed:
        print(f"experiments: failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
