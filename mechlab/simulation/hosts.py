"""Processes on one or several hosts that share a run.

Process 0 listens at an address, and every other process keeps one TCP connection to it. Messages
are JSON. A process that ends closes its connection, so the others notice at once and say so in one
line. Nothing else has a time limit: processes may finish hours apart. Collectives of JAX are not
used, because they end a process from C++ when another one is late or gone.
"""

import contextlib
import itertools
import json
import os
import selectors
import socket
import struct
import time
from collections.abc import Callable
from typing import Any

import jax

from mechlab.core.errors import InputError

TIMEOUT = 300  # seconds that processes wait for each other at the start
_HELLO_SECONDS = 10  # for the first message of a connection, which may come from a stranger
_HELLO_BYTES = 2**16
_runs = itertools.count()


class LostHost(InputError):
    """Another process ended before the run was complete; the line says how to go on."""


class Hosts:
    """The processes of one run; by itself, one process alone.

    Attributes:
        process: number of this process, from 0.
        processes: how many there are.
    """

    def __init__(self, process: int = 0, processes: int = 1) -> None:
        self.process, self.processes = process, processes
        self._links: dict[int, socket.socket] = {}  # of process 0: to all others; else to 0
        self._names: dict[int, str] = {}
        self._next = "start every process again"

    def agree(self, run: dict[str, Any], out: str | None) -> None:
        """InputError on every process unless all were given the same run.

        Args:
            run: what has to be equal, such as the manifest of `part_files`.
            out: the folder of part files, for the message about a lost process.
        """
        self._next = (
            "nothing is kept; start every process again, with --out DIR to keep what is complete"
            if out is None
            else f"what is complete is kept in {out}; run the same command again on every host"
        )
        run = json.loads(json.dumps({**run, "out": out is not None}))
        difference = self.combine(run, lambda runs: _difference(runs, self._names))
        if difference is not None:
            raise InputError(difference)

    def combine(self, value: Any, merge: Callable[[list[Any]], Any]) -> Any:
        """`merge` of every process's value, in their order, on all processes.

        Waits as long as the others compute.

        Args:
            value: anything that JSON can hold.
            merge: values of processes 0 … R − 1 → JSON; called on process 0.

        Raises:
            LostHost: a process ended without giving its value.
        """
        if self.process > 0:
            self._send(0, {"value": value})
            return self._receive(0)["value"]
        values = {0: value}
        with selectors.DefaultSelector() as waiting:
            for process, link in self._links.items():
                waiting.register(link, selectors.EVENT_READ, process)
            while waiting.get_map():
                for key, _ in waiting.select():
                    values[key.data] = self._receive(key.data)["value"]
                    waiting.unregister(key.fileobj)
        merged = merge([values[process] for process in sorted(values)])
        for process in self._links:
            with contextlib.suppress(LostHost):  # its value is in
                self._send(process, {"value": merged})
        return merged

    def check(self) -> None:
        """LostHost if another process has ended; takes microseconds."""
        for process, link in self._links.items():
            link.setblocking(False)
            try:
                ended = link.recv(1, socket.MSG_PEEK) == b""
                told = not ended and self.process > 0  # process 0 speaks early only of a failure
            except BlockingIOError:
                continue
            except OSError:
                ended, told = True, False
            finally:
                link.setblocking(True)
            if ended:
                raise self._lost(process)
            if told:
                self._receive(process)

    def close(self) -> None:
        """End the connections; the others see that this process is done."""
        for link in self._links.values():
            link.close()
        self._links = {}

    def __del__(self) -> None:
        self.close()

    def _send(self, process: int, message: dict[str, Any]) -> None:
        try:
            _send(self._links[process], message)
        except OSError:
            raise self._lost(process) from None

    def _receive(self, process: int) -> dict[str, Any]:
        try:
            message = _receive(self._links[process])
        except OSError:
            raise self._lost(process) from None
        if "failed" in message:
            raise LostHost(message["failed"])
        return message

    def _lost(self, process: int) -> LostHost:
        line = (
            f"process {process} of {self.processes} ({self._names[process]}) ended before the run "
            f"was complete, for a reason that its own output says: {self._next}"
        )
        self._fail(line)
        return LostHost(line)

    def _fail(self, line: str) -> None:
        """Process 0 tells the others why the run ends."""
        if self.process == 0:
            for link in self._links.values():
                with contextlib.suppress(OSError):
                    _send(link, {"failed": line})


def join(
    coordinator: str, processes: int, process: int, timeout: float = TIMEOUT, option: str = ""
) -> Hosts:
    """Meet the other processes of a run.

    Args:
        coordinator: HOST:PORT at which process 0 listens.
        processes, process: how many there are, and the number of this one.
        timeout: seconds to wait until all have come.
        option: what named the coordinator, for messages; `--coordinator` where not given.

    Raises:
        InputError: the address or a number is not usable, or a process does not come in time.
    """
    if processes < 1:
        raise InputError(f"--processes {processes}: give a whole number above 0")
    if not 0 <= process < processes:
        raise InputError(f"--process {process}: give a number from 0 to {processes - 1}")
    option = option or f"--coordinator {coordinator}"
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise InputError(f"{option}: give HOST:PORT, such as node1:1234")
    if processes == 1:
        return Hosts()
    if process > 0:
        return _called(host.strip("[]"), int(port), processes, process, timeout, option)
    try:
        listener = _listener(host.strip("[]"), int(port))
    except OSError as error:
        raise InputError(
            f"{option}: cannot listen there ({error.strerror or error}); choose another port"
        ) from None
    return _met(listener, processes, timeout, option)


def detected(timeout: float = TIMEOUT) -> Hosts:
    """Meet the processes that a cluster's launcher started with this one.

    JAX's own detection, that of `jax.distributed.initialize()` without arguments, names the
    coordinator and the number of this process: Slurm, Open MPI, Kubernetes, TPU pods.

    Raises:
        InputError: there is no such launcher, or a process does not come in time.
    """
    from jax._src import clusters  # no public name has the detection without the connection

    try:
        coordinator, processes, process, _ = (
            clusters.ClusterEnv.auto_detect_unset_distributed_params(
                None, None, None, None, None, int(timeout)
            )
        )
    except (KeyError, RuntimeError, ValueError, OSError) as error:
        raise InputError(
            f"--distributed: the cluster is not readable ({error!r}); use --coordinator, "
            "--processes and --process"
        ) from None
    if coordinator is None or processes is None or process is None:
        raise InputError(
            "--distributed: no Slurm, Open MPI, Kubernetes or TPU pod started this process; start "
            "it by srun or mpirun, or use --coordinator, --processes and --process"
        )
    return join(
        coordinator, processes, process, timeout, f"--distributed (process 0 at {coordinator})"
    )


def of_jax(timeout: float = TIMEOUT) -> Hosts:
    """The processes that a script joined by `jax.distributed.initialize`; else one alone.

    Raises:
        InputError: JAX has several processes without it, or a process does not come in time.
    """
    if jax.process_count() == 1:
        return Hosts()
    from jax._src.distributed import global_state  # its key-value store has no public name

    if global_state.client is None:
        raise InputError("several processes: call jax.distributed.initialize() first")
    process, processes = jax.process_index(), jax.process_count()
    key = f"mechlab/hosts/{next(_runs)}"  # every process counts the same calls
    host = str(global_state.coordinator_address).rpartition(":")[0].strip("[]")
    if process == 0:
        listener = _listener(host, 0)
        global_state.client.key_value_set(key, str(listener.getsockname()[1]))
        return _met(listener, processes, timeout, "jax.distributed")
    try:
        port = global_state.client.blocking_key_value_get(key, int(1000 * timeout))
    except jax.errors.JaxRuntimeError:
        raise InputError(
            f"jax.distributed: process 0 did not call simulate within {timeout:g} s; call it on "
            "every process"
        ) from None
    return _called(host, int(port), processes, process, timeout, "jax.distributed")


def task() -> tuple[int, int] | None:
    """(number, count) of this process if a launcher started it as one of several tasks."""
    for number, count in (
        ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),  # srun's; sbatch sets SLURM_NTASKS as well
        ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
        ("PMI_RANK", "PMI_SIZE"),  # MPICH, Intel MPI
    ):
        found = os.environ.get(number, ""), os.environ.get(count, "")
        if all(text.isdigit() for text in found) and int(found[1]) > 1:
            return int(found[0]), int(found[1])
    return None


def _met(listener: socket.socket, processes: int, timeout: float, option: str) -> Hosts:
    """Process 0: wait until all others have called."""
    hosts = Hosts(0, processes)
    hosts._names[0] = socket.gethostname()
    deadline = time.monotonic() + timeout
    failed = None
    with listener:
        while failed is None and len(hosts._links) < processes - 1:
            listener.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                link, _ = listener.accept()
            except TimeoutError:
                missing = sorted(set(range(1, processes)) - set(hosts._links))
                failed = (
                    f"{option}: {_counted(missing)} of {processes} did not come within "
                    f"{timeout:g} s; start every process again, or allow more time (--timeout)"
                )
                break
            try:
                link.settimeout(_HELLO_SECONDS)
                hello = _receive(link, _HELLO_BYTES)
                process, count, name = int(hello["process"]), hello["processes"], hello["host"]
            except (OSError, ValueError, KeyError, TypeError, RecursionError):
                link.close()  # a stranger
                continue
            _keep(link)
            if count != processes:
                failed = (
                    f"{option}: --processes is {processes} at process 0 and {count} at process "
                    f"{process} ({name}); give every process the same"
                )
            elif process in hosts._links:
                failed = (
                    f"{option}: process {process} came twice, from {hosts._names[process]} and "
                    f"{name}; give every process a number of its own with --process"
                )
            if failed is not None:
                with contextlib.suppress(OSError):
                    _send(link, {"failed": failed})
                link.close()
                break
            hosts._links[process], hosts._names[process] = link, name
    if failed is not None:
        hosts._fail(failed)
        hosts.close()
        raise InputError(failed)
    for process in hosts._links:
        hosts._send(process, {"names": list(hosts._names.items())})
    return hosts


def _called(
    host: str, port: int, processes: int, process: int, timeout: float, option: str
) -> Hosts:
    """Another process: call process 0 until it answers."""
    deadline = time.monotonic() + timeout
    hosts = Hosts(process, processes)
    hosts._names[0] = f"{host}:{port}"
    while True:
        try:
            link = socket.create_connection((host, port), _HELLO_SECONDS)
            if link.getsockname() != link.getpeername():  # else this process met itself
                break
            link.close()
        except OSError as error:
            if time.monotonic() > deadline:
                raise InputError(
                    f"{option}: process 0 of {processes} did not answer within {timeout:g} s "
                    f"({error.strerror or error}); start it there, or allow more time (--timeout)"
                ) from None
            time.sleep(0.2)
    link.settimeout(timeout + _HELLO_SECONDS)  # process 0 gives up by then
    hosts._links[0] = link
    hosts._send(0, {"process": process, "processes": processes, "host": socket.gethostname()})
    hosts._names = {number: name for number, name in hosts._receive(0)["names"]}
    _keep(link)
    return hosts


def _listener(host: str, port: int) -> socket.socket:
    """Of this machine alone where the host is; else at all addresses, as a host's own name is
    often a loopback address on itself."""
    if host == "localhost" or host.startswith("127."):
        return socket.create_server(("127.0.0.1", port))
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))


def _keep(link: socket.socket) -> None:
    """Wait without limit, but notice within two minutes a host that lost its power."""
    link.settimeout(None)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 6)):
        if hasattr(socket, name):
            link.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _send(link: socket.socket, message: dict[str, Any]) -> None:
    data = json.dumps(message).encode()
    link.sendall(struct.pack("!Q", len(data)) + data)


def _receive(link: socket.socket, most: int | None = None) -> dict[str, Any]:
    (size,) = struct.unpack("!Q", _exactly(link, 8))
    if most is not None and size > most:
        raise ValueError(f"{size} bytes")
    return json.loads(_exactly(link, size))


def _exactly(link: socket.socket, size: int) -> bytes:
    pieces: list[bytes] = []
    while size:
        pieces.append(link.recv(min(size, 2**20)))
        if not pieces[-1]:
            raise ConnectionError("closed")
        size -= len(pieces[-1])
    return b"".join(pieces)


def _difference(runs: list[dict[str, Any]], names: dict[int, str]) -> str | None:
    """The first thing that a process was given otherwise than process 0."""
    for process, run in enumerate(runs):
        for key in sorted({*runs[0], *run}):
            first, other = runs[0].get(key), run.get(key)
            if first != other:
                short = all(isinstance(x, int | str) for x in (first, other))
                values = f" is {first!r} and {other!r}" if short else ""
                return (
                    f"process 0 ({names[0]}) and process {process} ({names[process]}) have "
                    f"different runs: {_NAMES.get(key, key)}{values}; give every process the same "
                    "command and the same files"
                )
    return None


_NAMES = {"mechlab": "version of mechlab", "mechanisms": "rules", "out": "--out"}


def _counted(missing: list[int]) -> str:
    if len(missing) == 1:
        return f"process {missing[0]}"
    shown = ", ".join(map(str, missing[:5])) + (", …" if len(missing) > 5 else "")
    return f"processes {shown}"
