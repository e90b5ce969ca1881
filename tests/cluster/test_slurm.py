"""simulate under a real Slurm of one node, whose daemons are children of the test."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from mechlab import populations as pop
from mechlab.simulation.simulate import simulate

pytestmark = pytest.mark.full

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
POPULATION = 'kind = "parametric"\nproviders = 2\ncompute = [1.0, 8.0]\n'
CONFIGURATION = """\
ClusterName=mechlab
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={daemon}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmdParameters=config_overrides
NodeName=localhost NodeHostname={host} NodeAddr=127.0.0.1 CPUs=2
PartitionName=main Nodes=localhost Default=YES
"""


def installed():
    return all(shutil.which(x) for x in ("slurmctld", "slurmd", "munged", "srun", "sbatch"))


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """The environment in which commands of Slurm find the cluster."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("Slurm starts the tasks of users as root only")
    if not installed() and shutil.which("apt-get"):
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "timeout": 300}
        subprocess.run(["apt-get", "update"], **quiet)
        options = ("install", "-y", "--no-install-recommends")
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(["apt-get", *options, *PACKAGES], env=environment, **quiet)
    if not installed():
        pytest.skip(f"no Slurm here, and apt-get does not install {' '.join(PACKAGES)}")
    folder = tmp_path_factory.mktemp("slurm")
    for parent in (folder, *folder.parents):  # munged wants folders that others may enter
        if parent.stat().st_uid == os.geteuid() and parent.name.startswith(("pytest", "slurm")):
            parent.chmod(0o755)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o400)
    (folder / "slurm.conf").write_text(
        CONFIGURATION.format(
            host=socket.gethostname().split(".")[0],
            controller=free_port(),
            daemon=free_port(),
            folder=folder,
        )
    )
    environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf"), "JAX_ENABLE_X64": "1"}
    munge = [f"--{x}={folder}/munge.{y}" for x, y in (("key-file", "key"), ("socket", "socket"))]
    munge += [f"--{x}-file={folder}/munged.{x}" for x in ("pid", "log", "seed")]
    daemons = []

    def start(*command):
        with open(folder / f"{command[0]}.log", "w") as log:
            daemons.append(
                subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=environment,
                )
            )

    try:
        start("munged", "--foreground", "--force", *munge)
        until(lambda: (folder / "munge.socket").exists(), daemons, folder)
        start("slurmctld", "-D", "-i")
        start("slurmd", "-D", "-N", "localhost")
        state = {"args": ["sinfo", "--noheader", "--format=%T"], "env": environment}
        until(
            lambda: b"idle" in subprocess.run(**state, capture_output=True).stdout, daemons, folder
        )
        yield environment
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(30)


def until(ready, daemons, folder):
    deadline = time.monotonic() + 60
    while not ready():
        logs = "\n".join(file.read_text()[-2000:] for file in folder.glob("*.log"))
        assert time.monotonic() < deadline, logs
        assert all(daemon.poll() is None for daemon in daemons), logs
        time.sleep(0.2)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "population.toml").write_text(POPULATION)
    return tmp_path


def mechlab(*arguments):
    return [sys.executable, "-m", "mechlab.cli", *map(str, arguments)]


def markets(folder):
    return ("simulate", "--population", folder / "population.toml", "--markets", 150_000)


def srun(cluster, *command):
    return subprocess.run(
        ["srun", *map(str, command)], env=cluster, capture_output=True, text=True, timeout=300
    )


def test_a_batch_job_gives_what_one_process_gives(cluster, folder):
    out, script = folder / "run", folder / "job.sh"
    command = mechlab(*markets(folder), "--out", out, "--format", "json", "--distributed")
    script.write_text(f"#!/bin/bash\n#SBATCH --ntasks=2\nsrun {' '.join(command)}\n")
    options = ["--wait", f"--output={folder}/stdout", f"--error={folder}/stderr"]
    done = subprocess.run(["sbatch", *options, script], env=cluster, timeout=300)
    assert done.returncode == 0, (folder / "stderr").read_text()
    found = json.loads((folder / "stdout").read_text())
    alone = simulate(pop.Parametric(providers=2, compute=(1.0, 8.0)), 150_000).to_dict()
    for rule, metrics in alone["mechanisms"].items():
        for metric, summary in metrics.items():
            np.testing.assert_allclose(
                found["mechanisms"][rule][metric]["mean"], summary["mean"], rtol=1e-6
            )
    assert len(list(out.glob("part-*.parquet"))) == 3
    assert {file.name for file in out.glob("lock-*")} == {"lock-0", "lock-1"}


def test_tasks_without_options_compute_nothing(cluster, folder):
    done = srun(cluster, "-n2", *mechlab(*markets(folder), "--out", folder / "run"))
    lines = [line for line in done.stderr.splitlines() if line.startswith("mechlab")]
    assert done.returncode == 2 and done.stdout == "" and len(lines) == 2
    assert all("use --distributed to share them" in line for line in lines)
    assert not (folder / "run").exists()


def test_tasks_of_different_seeds_compute_nothing(cluster, folder):
    program = folder / "program"
    program.write_text(
        "".join(
            f"{task} {' '.join(mechlab(*markets(folder), '--distributed', '--seed', task))}\n"
            for task in range(2)
        )
    )
    done = srun(cluster, "-n2", "--multi-prog", program)
    lines = [line for line in done.stderr.splitlines() if line.startswith("mechlab")]
    assert done.returncode == 2 and done.stdout == "" and len(lines) == 2
    assert all("seed is 0 and 1" in line for line in lines)


def run_with(cluster, folder, task_1, simulated):
    """srun of two tasks, of which the second runs a command of the shell."""
    script = folder / "task.sh"
    script.write_text(f'if [ "$SLURM_PROCID" = 1 ]; then {task_1}; else {simulated}; fi\n')
    done = srun(cluster, "-n2", "--kill-on-bad-exit=0", "bash", script)
    assert done.stdout == "", done.stdout
    return [line for line in done.stderr.splitlines() if line.startswith("mechlab")]


def test_a_task_that_does_not_come_is_one_line(cluster, folder):
    simulated = " ".join(mechlab(*markets(folder), "--distributed", "--timeout", 3))
    (line,) = run_with(cluster, folder, "true", simulated)
    assert "process 1 of 2 did not come within 3 s" in line


def test_a_killed_task_is_one_line_and_the_same_command_completes_the_run(cluster, folder):
    out = folder / "run"
    simulated = mechlab(*markets(folder), "--distributed", "--out", out)
    killed = f"until [ -e {out}/lock-1 ]; do sleep 0.1; done; kill -9 $!"
    (line,) = run_with(cluster, folder, f"{' '.join(simulated)} & {killed}", " ".join(simulated))
    assert "process 1 of 2" in line and "run the same command again on every host" in line
    again = srun(cluster, "-n2", *simulated, "--format", "json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["markets"] == 150_000
    assert len(list(out.glob("part-*.parquet"))) == 3


def test_a_command_of_one_host_says_so(cluster):
    done = srun(cluster, "-n2", *mechlab("learn"))
    lines = [line for line in done.stderr.splitlines() if line.startswith("mechlab")]
    assert done.returncode == 2 and len(lines) == 2
    assert all("learn runs on one host" in line for line in lines)
