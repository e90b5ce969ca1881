"""`python -m experiments NAME…` runs experiments by name, `python -m experiments all` all of them.

Each module of this folder is one; its docstring says what it is and its first lines what is set.
Each runs in a process of its own: precision and devices, once set, are set for the whole process.
Of several, two run side by side, for compiling keeps one core busy; what one printed is shown when
it is done.
"""

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed

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
    failed, alone = [], len(names) == 1
    if not alone:
        print(f"{len(names)} experiments, two at a time", flush=True)
    with ThreadPoolExecutor(max_workers=2) as pool:
        running = {pool.submit(run, name, alone): name for name in names}
        for number, done in enumerate(as_completed(running), 1):
            name, (code, said, seconds) = running[done], done.result()
            print(f"[{number}/{len(names)}] {name}, {seconds:.0f} s\n{said}", end="", flush=True)
            if code:
                failed.append(name)
    if failed:
        print(f"experiments: failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def run(name: str, alone: bool) -> tuple[int, str, float]:
    """Its exit status, what it printed (already shown where it runs alone), and seconds."""
    began = time.perf_counter()
    shown: dict = {} if alone else {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    done = subprocess.run([sys.executable, "-m", f"experiments.{name}"], text=True, **shown)
    return done.returncode, done.stdout or "", time.perf_counter() - began


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
