"""`python -m experiments NAME…` runs experiments by name, `python -m experiments all` all of them.

Each module of this folder is one; its docstring says what it is and its first lines what is set.
Each runs in a process of its own: precision and devices, once set, are set for the whole process.
Of several, two run side by side, for compiling keeps one core busy; what they printed is shown
in the order of their names here, as soon as it is there.
"""

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

NAMES = (
    "curves",
    "value_curves",
    "dynamics",
    "derivatives",
    "rationality_sweep",
    "mechanisms",
    "todays_market",
    "population",
    "incentives",
    "survival",
    "learning",
    "routing",
    "design_reserve",
    "lab_market",
    "entry_and_margin",
)


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
    failed, alone = [], len(names) == 1
    if not alone:
        print(f"{len(names)} experiments, two at a time", flush=True)
    with ThreadPoolExecutor(max_workers=2) as pool:
        for number, done in enumerate(pool.map(lambda name: run(name, alone), names), 1):
            code, said, wrong, seconds = done
            print(
                f"[{number}/{len(names)}] {names[number - 1]}", said, sep="\n", end="", flush=True
            )
            print(wrong, end="", file=sys.stderr, flush=True)
            print(f"  {seconds:.0f} s", flush=True)
            if code:
                failed.append(names[number - 1])
    if failed:
        print(f"experiments: failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def run(name: str, alone: bool) -> tuple[int, str, str, float]:
    """Its exit status, what it printed (shown already where it runs alone), and seconds."""
    began = time.perf_counter()
    command = [sys.executable, "-m", f"experiments.{name}"]
    done = subprocess.run(command, text=True, capture_output=not alone)
    return done.returncode, done.stdout or "", done.stderr or "", time.perf_counter() - began


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
