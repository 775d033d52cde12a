#!services/env-webshop/.venv/bin/python
"""The service on a generated catalogue of 200,000 products, and 5,000 open sessions: time, disk and memory.

    make soak ONLY=webshop_scale, or benchmarks/soak/webshop_scale.py [--products 200000] [--sessions 5000]

The catalogue is made in the field's layout and served as the full one would be. Memory is the sum of the resident sizes of all the
service's processes, file pages that are mapped (the index, the jar) included. Writes benchmarks/out/soak-webshop_scale.json.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
from env_core.process_tree import tree
from env_core.running import RunningService, running_service
from env_webshop import build, sample
from env_webshop.sources import FILES, find_source

ROOT = Path(__file__).parents[2]
OUT = ROOT / "benchmarks" / "out" / "soak-webshop_scale.json"
WITH_GOALS = 1000
SESSIONS = 32
LARGEST_RSS_MB = 1500
ALL_PRODUCTS = 1_181_436
WORDS = ["shirt", "dress", "lamp", "granola", "tea", "headphones", "cable", "case", "shampoo", "bookcase", "pillow", "soft", "wireless"]


def rss_mb(pid: int) -> float:
    """Return the resident memory of a process and all below it; shared pages count in each."""
    total = 0
    for found in tree(pid):
        try:
            total += int(Path(f"/proc/{found}/statm").read_text("ascii").split()[1])
        except OSError:
            continue
    return total * os.sysconf("SC_PAGE_SIZE") / 2**20


def disk_mb(folder: Path) -> dict[str, float]:
    """Return the sizes of what was made."""
    return {
        part.name: round(sum(file.stat().st_size for file in ([part] if part.is_file() else part.rglob("*")) if file.is_file()) / 2**20, 1)
        for part in sorted(folder.iterdir())
    }


def wander(client: httpx.Client, session: str, rng: random.Random, steps: int) -> None:
    """Search, look at a product, go back."""
    for _ in range(steps):
        query = " ".join(rng.sample(WORDS, 3))
        reply = client.post("/step", json={"session_id": session, "action": f"search[{query}]"}).raise_for_status().json()
        products = [text for text in reply["metadata"]["info"]["available_actions"]["clickables"] if text.startswith("smpl")]
        for action in (f"click[{rng.choice(products)}]", "click[description]", "click[< prev]"):
            client.post("/step", json={"session_id": session, "action": action}).raise_for_status()


def begin(client: httpx.Client, number: int) -> str:
    """Open a session."""
    reply = client.post("/reset", json={"task_id": f"sample:{number}", "max_steps": 1000}).raise_for_status().json()
    session: str = reply["metadata"]["session_id"]
    return session


def many_products(service: RunningService, rng: random.Random) -> dict[str, Any]:
    """Play 32 sessions on the large catalogue, a purchase of another product in each."""
    with httpx.Client(base_url=service.url, timeout=300) as client:
        sessions = [begin(client, number) for number in range(SESSIONS)]
        started = time.monotonic()
        for session in sessions:
            wander(client, session, rng, 8)
        step_ms = 1000 * (time.monotonic() - started) / (SESSIONS * 8 * 4)
        before = rss_mb(service.process.pid)
        for session in sessions:
            wander(client, session, rng, 1)
            client.post("/step", json={"session_id": session, "action": "click[buy now]"}).raise_for_status()
        # a purchase of another product tags two titles: from here on the model is in memory too
        after = rss_mb(service.process.pid)
        return {"rss_mb_32_sessions": round(before, 1), "rss_mb_with_tagger": round(after, 1), "step_ms": round(step_ms, 2)}


def many_sessions(service: RunningService, count: int, rng: random.Random) -> dict[str, Any]:
    """Open sessions, take two steps in each, then come back to some."""
    with httpx.Client(base_url=service.url, timeout=300) as client:
        started = time.monotonic()
        first = rss_mb(service.process.pid)
        sessions = [begin(client, number % 1500) for number in range(count)]
        for session in sessions:
            for action in ("search[green tea]", "click[next >]"):
                client.post("/step", json={"session_id": session, "action": action}).raise_for_status()
        back = rng.sample(sessions, 200)
        replies = []
        for session in back:
            replies.append(client.post("/step", json={"session_id": session, "action": "click[< prev]"}).raise_for_status().json())
        texts = {reply["observation"]["text"][-400:] for reply in replies}
        open_now = sum(not state["done"] for state in client.get("/sessions").json()["sessions"])
        assert len(texts) == 1, "all sessions came back to the same results"
        assert client.get("/ready").status_code == 200
        return {
            "open_sessions": open_now,
            "rss_mb_before": round(first, 1),
            "rss_mb": round(rss_mb(service.process.pid), 1),
            "workers": len(tree(service.process.pid)) - 1,
            "elapsed_s": round(time.monotonic() - started, 1),
        }


def main() -> None:
    """Make, serve, measure."""
    parser = argparse.ArgumentParser(description="WebShop at scale.")
    parser.add_argument("--products", type=int, default=200_000, help="products of the generated catalogue (default 200,000)")
    parser.add_argument("--sessions", type=int, default=5000, help="open sessions on the small sample (default 5,000)")
    options = parser.parse_args()
    rng = random.Random(0)
    result: dict[str, Any] = {"products": options.products}
    with tempfile.TemporaryDirectory() as scratch:
        cache = Path(scratch) / "cache"
        files = cache / f"sample-files-{sample.VERSION}"  # where the service looks for its sample
        sample.generate(files, options.products, WITH_GOALS)
        source = find_source(files, "sample")
        assert source is not None
        folder = build.catalogue_folder(cache, source, 0)
        started = time.monotonic()
        arguments = [str(files), "sample", str(folder), "lucene", "0"]
        subprocess.run([sys.executable, "-m", "env_webshop.build", *arguments], check=True)
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        result |= {
            "build_s": round(time.monotonic() - started, 1),
            "build_cpu_s": round(used.ru_utime + used.ru_stime, 1),
            "build_largest_process_mb": round(used.ru_maxrss / 1024, 1),
            "disk_mb": disk_mb(folder),
            "source_mb": round(sum((files / name).stat().st_size for name in FILES["sample"]) / 2**20, 1),
        }
        known = {"ETO_WEBSHOP_CATALOGUE": "sample", "ETO_WEBSHOP_CACHE": str(cache), "ETO_ENV_KEPT_SESSIONS": "10"}
        with running_service("env_webshop", ["--log-level", "warning"], known, ready_timeout_s=600) as service:
            result |= many_products(service, rng)
    with tempfile.TemporaryDirectory() as scratch:
        known = {"ETO_WEBSHOP_CATALOGUE": "sample", "ETO_WEBSHOP_CACHE": scratch, "ETO_ENV_KEPT_SESSIONS": "10"}
        limits = ["--max-sessions", str(options.sessions), "--log-level", "warning"]
        with running_service("env_webshop", limits, known, ready_timeout_s=600) as service:
            result["sessions"] = many_sessions(service, options.sessions, rng)
    factor = ALL_PRODUCTS / options.products
    result["for_all_1181436_products"] = {
        "disk_gb": round(sum(result["disk_mb"].values()) * factor / 1024, 1),
        "build_cpu_min": round(result["build_cpu_s"] * factor / 60, 1),
    }
    print(json.dumps(result, indent=1))
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(result, indent=1) + "\n")
    sys.exit(not (result["rss_mb_with_tagger"] < LARGEST_RSS_MB and result["sessions"]["open_sessions"] == options.sessions))


if __name__ == "__main__":
    main()
