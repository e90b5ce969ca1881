"""Processes that share a run: they meet, wait for each other, compare runs, and notice a loss."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from mechlab import InputError, cli
from mechlab import populations as pop
from mechlab.simulation import hosts
from mechlab.simulation.simulate import simulate

RUN = {"mechlab": "1.0", "population": {"kind": "lab"}, "seed": 0, "markets": 10}
SMALL = pop.Parametric(providers=2, compute=(1.0, 8.0))
LAUNCHERS = ("SLURM_", "OMPI_", "PMI_")


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in list(os.environ):
        if name.startswith(LAUNCHERS):
            monkeypatch.delenv(name)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def together(*actions, timeout=20.0):
    """What each action(hosts), or its error, returned; action r runs as process r."""
    address, found = f"127.0.0.1:{free_port()}", [None] * len(actions)

    def run(process):
        try:
            joined = hosts.join(address, len(actions), process, timeout)
            try:
                found[process] = actions[process](joined)
            finally:
                joined.close()
        except InputError as error:
            found[process] = error

    threads = [threading.Thread(target=run, args=(r,)) for r in range(len(actions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    return found


def test_every_process_gets_what_all_gave_in_their_order():
    text = "x" * 3_000_000  # more than a socket's buffers hold

    def give(joined):
        return joined.combine([joined.process, text], lambda all: [one[0] for one in all])

    assert together(give, give, give) == [[0, 1, 2]] * 3


def test_processes_wait_for_a_slow_one_beyond_the_time_to_join():
    def late(seconds):
        def give(joined):
            time.sleep(seconds)
            joined.check()
            return joined.combine(seconds, sum)

        return give

    for first, second in ((0.0, 1.5), (1.5, 0.0)):
        assert together(late(first), late(second), timeout=1.0) == [1.5, 1.5]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 7}, "seed is 0 and 7"),
        ({"mechlab": "1.1"}, "version of mechlab is '1.0' and '1.1'"),
        ({"population": {"kind": "published"}}, "population;"),
        ({"mechanisms": {"vcg": []}}, "rules;"),
    ],
)
def test_different_runs_are_one_line_on_every_process(change, said):
    def same(joined):
        joined.agree(RUN, None)

    def other(joined):
        joined.agree({**RUN, **change}, None)

    found = together(same, same, other)
    assert all(isinstance(one, InputError) for one in found)
    assert len({str(one) for one in found}) == 1
    assert said in str(found[0]) and "process 2" in str(found[0])
    assert together(same, same, same) == [None, None, None]


def test_an_output_folder_on_one_host_alone_is_a_different_run():
    found = together(lambda x: x.agree(RUN, "run"), lambda x: x.agree(RUN, None))
    assert all("--out is True and False" in str(one) for one in found)


@pytest.mark.parametrize("lost", [0, 1])
@pytest.mark.parametrize(
    ("out", "advice"),
    [("run", "is kept in run; run the same command again on every host"), (None, "--out DIR")],
)
def test_a_lost_process_is_one_line_that_names_the_next_command(lost, out, advice):
    def stay(joined):
        joined.agree(RUN, out)
        joined.combine(1, sum)

    def leave(joined):
        joined.agree(RUN, out)

    actions = [stay, stay, stay]
    actions[lost] = leave
    found = together(*actions)
    for process in {0, 1, 2} - {lost}:
        assert isinstance(found[process], hosts.LostHost)
        assert f"process {lost} of 3" in str(found[process]) and advice in str(found[process])


def test_a_lost_process_is_noticed_between_parts():
    def compute(joined):
        for _ in range(1000):
            joined.check()
            time.sleep(0.01)

    found = together(compute, compute, lambda joined: time.sleep(0.3))
    assert all("process 2 of 3" in str(one) for one in found[:2])


def test_a_process_that_gave_its_result_may_end():
    def first(joined):
        time.sleep(0.5)
        return joined.combine(1, sum)

    def second(joined):
        joined._send(0, {"value": 2})
        return "gone"

    assert together(first, second) == [3, "gone"]


def test_a_process_that_does_not_come_is_one_line():
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(InputError, match=r"processes 1, 2 of 3 did not come within 0\.3 s; start"):
        hosts.join(address, 3, 0, 0.3)
    with pytest.raises(
        InputError, match=r"process 0 of 3 did not answer within 0\.3 s .*--timeout"
    ):
        hosts.join(address, 3, 2, 0.3)


def test_those_that_came_hear_that_another_did_not():
    address, found = f"127.0.0.1:{free_port()}", []

    def come():
        with pytest.raises(InputError) as error:
            hosts.join(address, 3, 1, 20.0)
        found.append(str(error.value))

    thread = threading.Thread(target=come)
    thread.start()
    with pytest.raises(InputError):
        hosts.join(address, 3, 0, 1.0)
    thread.join(20)
    assert "process 2 of 3 did not come" in found[0]


def test_counts_that_differ_are_one_line():
    address, found = f"127.0.0.1:{free_port()}", []

    def come(process, processes):
        with pytest.raises(InputError) as error:
            hosts.join(address, processes, process, 20.0)
        found.append(str(error.value))

    threads = [threading.Thread(target=come, args=one) for one in ((0, 2), (1, 3))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(found) == 2
    assert all("--processes is 2 at process 0 and 3 at process 1" in line for line in found)


def test_a_port_in_use_is_one_line():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(InputError, match=r"cannot listen there .* choose another port"):
            hosts.join(f"127.0.0.1:{taken.getsockname()[1]}", 2, 0, 1.0)


def test_one_number_on_two_processes_is_one_line():
    address, found = f"127.0.0.1:{free_port()}", []

    def come(process):
        try:
            hosts.join(address, 3, process, 5.0)
        except InputError as error:
            found.append(str(error))

    threads = [threading.Thread(target=come, args=(r,)) for r in (0, 1, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(found) == 3 and all("process 1 came twice" in line for line in found)


def test_a_stranger_at_the_port_is_ignored():
    port, found = free_port(), []

    def first():
        found.append(hosts.join(f"127.0.0.1:{port}", 2, 0, 20.0).combine(1, sum))

    thread = threading.Thread(target=first)
    thread.start()
    for words in (
        b"GET / HTTP/1.1\r\n\r\n",
        b"\0\0\0\0\0\0\0\2[]",
        b"\0\0\0\0\0\0\x4e\x20" + b"[" * 20_000,
        b"",
    ):
        while True:
            try:
                with socket.create_connection(("127.0.0.1", port), 5) as stranger:
                    stranger.sendall(words)
                break
            except ConnectionRefusedError:
                time.sleep(0.01)
    assert hosts.join(f"127.0.0.1:{port}", 2, 1, 20.0).combine(2, sum) == 3
    thread.join(20)
    assert found == [3]


def test_a_task_is_one_of_several_only_where_a_launcher_says_so(monkeypatch):
    assert hosts.task() is None
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_NTASKS", "2")  # the script of sbatch itself, without srun
    assert hosts.task() is None
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    assert hosts.task() == (0, 2)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    assert hosts.task() is None
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "3")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "4")
    assert hosts.task() == (3, 4)


def slurm(process, processes=2):
    """The environment of a task of srun."""
    return {
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": str(processes),
        "SLURM_STEP_NUM_TASKS": str(processes),
        "SLURM_PROCID": str(process),
        "SLURM_LOCALID": str(process),
    }


@pytest.mark.parametrize(
    ("arguments", "tasks", "message"),
    [
        (("simulate",), 2, "this is task 1 of 2, and each would compute all markets"),
        (("incentives",), 2, "incentives runs on one host, and this is task 1 of 2"),
        (("learn",), 2, "learn runs on one host, and this is task 1 of 2"),
        (("simulate", "--distributed"), 0, "no Slurm, Open MPI, Kubernetes or TPU pod"),
        (("simulate", "--distributed", "--timeout", "1"), 2, "process 0 of 2 did not answer"),
        (("simulate", "--timeout", "0"), 0, "--timeout = 0"),
        (("simulate", "--coordinator", "h", "--processes", "2"), 0, "give HOST:PORT"),
        (("simulate", "--coordinator", "h:1", "--distributed"), 0, "use only one"),
    ],
)
def test_tasks_of_a_launcher_do_not_compute_the_same(
    arguments, tasks, message, monkeypatch, capsys
):
    for name, value in slurm(1, tasks).items() if tasks else ():
        monkeypatch.setenv(name, value)
    status = cli.main([*arguments, *(("--markets", "10") if arguments[0] == "simulate" else ())])
    out, err = capsys.readouterr()
    assert status == 2 and out == "" and err.count("\n") == 1 and message in err


def test_a_task_runs_alone_where_it_is_told_to(monkeypatch, capsys):
    monkeypatch.setattr(
        "mechlab.simulation.simulate.simulate",
        lambda *_, hosts, **__: (_ for _ in ()).throw(InputError(f"{hosts.processes} process")),
    )
    for name, value in slurm(1).items():
        monkeypatch.setenv(name, value)
    assert cli.main(["simulate", "--no-distributed"]) == 2
    assert capsys.readouterr().err == "mechlab: 1 process\n"


# A process of the run: parts of 64 markets, and what happens after each of its own
CHILD = """
import os, sys, time
import jax
import numpy as np
import mechlab.populations as pop
from mechlab.simulation import hosts
import mechlab.simulation.simulate as module

module.PART = 64
population = pop.Parametric(providers=2, compute=(1.0, 8.0))
"""


def child(code, **environment):
    return subprocess.Popen(
        [sys.executable, "-c", CHILD + code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": "1", **environment},
    )


def ended(process, seconds=100):
    out, err = process.communicate(timeout=seconds)
    return process.returncode, out, err


def same_summaries(found, expected):
    assert set(found) == set(expected)
    for name, summary in expected.items():
        assert found[name].count == summary.count
        np.testing.assert_array_equal(found[name].bins, summary.bins)
        np.testing.assert_allclose(found[name].mean, summary.mean, rtol=1e-14)


def test_a_run_resumes_after_one_of_its_processes_was_killed(tmp_path, monkeypatch):
    monkeypatch.setattr("mechlab.simulation.simulate.PART", 64)
    out = str(tmp_path / "run")

    def process_1(port, after):
        return child(
            f"joined = hosts.join('127.0.0.1:{port}', 2, 1)\n"
            f"found = module.simulate(population, 300, out={out!r}, chunk=32, hosts=joined,\n"
            f"    progress=lambda _: {after})\n"
            "print(found.computed)\n"
        )

    port = free_port()
    other = process_1(port, f"os.kill(os.getpid(), {int(signal.SIGKILL)})")
    joined = hosts.join(f"127.0.0.1:{port}", 2, 0)
    with pytest.raises(hosts.LostHost, match=r"process 1 of 2 .* run the same command again"):
        simulate(SMALL, 300, out=out, chunk=32, hosts=joined)
    assert ended(other)[0] == -signal.SIGKILL
    kept = {file: file.stat().st_mtime_ns for file in (tmp_path / "run").glob("part-*")}
    assert (tmp_path / "run" / "part-00000001.parquet") in kept and len(kept) < 5

    port = free_port()
    other = process_1(port, "None")
    joined = hosts.join(f"127.0.0.1:{port}", 2, 0)
    found = simulate(SMALL, 300, out=out, chunk=32, hosts=joined)
    status, printed, errors = ended(other)
    assert (status, errors) == (0, "") and int(printed) == 64  # the second of its two parts
    assert all(file.stat().st_mtime_ns == at for file, at in kept.items())
    alone = simulate(SMALL, 300, chunk=32, out=str(tmp_path / "alone"))
    same_summaries(found.summaries, alone.summaries)


def test_tasks_of_srun_share_the_markets(tmp_path):
    arguments = ["simulate", "--markets", "300", "--chunk", "32", "--format", "json"]
    arguments += ["--population", str(tmp_path / "population.toml")]
    (tmp_path / "population.toml").write_text(
        'kind = "parametric"\nproviders = 2\ncompute = [1.0, 8.0]\n'
    )
    code = f"from mechlab import cli\nsys.exit(cli.main({[*arguments, '--distributed']!r}))\n"
    tasks = [child(code, **slurm(process)) for process in range(2)]
    (status, printed, errors), other = map(ended, tasks)
    assert (status, errors) == (0, "") and other == (0, "", "")
    found, alone = json.loads(printed), simulate(SMALL, 300, chunk=32).to_dict()
    assert found["share_unique"] == alone["share_unique"]
    for rule, metrics in alone["mechanisms"].items():
        for metric, summary in metrics.items():
            np.testing.assert_allclose(
                found["mechanisms"][rule][metric]["mean"], summary["mean"], rtol=1e-12
            )


@pytest.mark.slow
def test_processes_of_jax_may_finish_more_than_half_a_minute_apart():
    port = free_port()
    processes = [
        child(
            f"jax.distributed.initialize('127.0.0.1:{port}', 2, {process})\n"
            f"found = module.simulate(population, 128, chunk=32,\n"
            f"    progress=lambda _: time.sleep({35 * process}))\n"
            "print(found.summaries['pay_per_compute.welfare'].count)\n"
        )
        for process in range(2)
    ]
    for status, printed, errors in map(ended, processes):
        assert status == 0 and printed.split()[-1] == "128", errors
