#!/usr/bin/env python3
"""Measures binaries of the worker beside each other, in turns, over the same flashcard jobs.

    compare-binaries.py [--jobs N] [--rounds N] NAME=BINARY[,VARIABLE=VALUE...] ...

Each run has a Redis of its own, and the simulator of the last binary as its provider. The jobs are queued before the
worker starts. `@collector` as a value is the address of a collector of traces that takes everything. The table shows
the median and the range of the rounds: CPU time of the worker and of Redis a job, jobs a second, and memory.
"""
import argparse
import http.server
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

TICKS = os.sysconf("SC_CLK_TCK")
PAYLOAD = '{"content":"The cell divides. Mitosis has four phases.","subject":"Biology","topic":"Cells","userId":"ann"}'


class Collector(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    spans = 0

    def do_POST(self):
        Collector.spans += len(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def until(condition, seconds=300):
    limit = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > limit:
            sys.exit("waited too long")
        time.sleep(0.01)


def is_open(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def run(binary, variables, simulator, jobs):
    """One run over `jobs` jobs: figures by name."""
    redis_port, provider_port, port = free_port(), free_port(), free_port()
    with tempfile.TemporaryDirectory() as folder:
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        redis = subprocess.Popen(
            ["redis-server", "--port", str(redis_port), "--save", "", "--dir", folder], **quiet)
        provider = subprocess.Popen([simulator, "simulate", "--listen", f"127.0.0.1:{provider_port}"], **quiet)
        worker = None
        try:
            until(lambda: is_open(redis_port) and is_open(provider_port))
            base = f"http://127.0.0.1:{provider_port}"
            env = {
                "PATH": os.environ["PATH"], "REDIS_URL": f"redis://127.0.0.1:{redis_port}", "PORT": str(port),
                "OPENAI_BASE_URL": f"{base}/v1", "OPENAI_API_KEY": "sim-openai-key", "DEDUPLICATE": "off",
                "OPENAI_RATE_LIMIT_RPM": "0", "OPENAI_MAX_CONCURRENT": "0", "QUEUES": "bullmq:ai-jobs=20",
                "LOG_FORMAT": "json", **variables,
            }
            add = [binary, "enqueue", "generate-flashcards", "--data", PAYLOAD, "--count", str(jobs)]
            subprocess.run(add, env=env, check=True, cwd=folder, **quiet)
            worker = subprocess.Popen([binary, "run"], env=env, cwd=folder, **quiet)
            started = time.monotonic()

            def is_done():
                count = ["redis-cli", "-p", str(redis_port), "ZCARD", "bull:ai-jobs:completed"]
                return subprocess.run(count, capture_output=True, text=True).stdout.strip() == str(jobs)

            until(is_done)
            seconds = time.monotonic() - started
            # The spans of the last jobs leave at the end: their cost counts.
            redis_spent = cpu_seconds(redis.pid)
            worker.terminate()
            _, _, usage = os.wait4(worker.pid, 0)
            worker = None
            return {
                "worker CPU, µs a job": (usage.ru_utime + usage.ru_stime) / jobs * 1e6,
                "Redis CPU, µs a job": redis_spent / jobs * 1e6,
                "jobs a second": jobs / seconds,
                "memory at the peak, MB": usage.ru_maxrss / 1024,
            }
        finally:
            for process in (worker, provider, redis):
                if process and process.poll() is None:
                    process.kill()
                if process:
                    process.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("binaries", nargs="+")
    arguments = parser.parse_args()
    collector = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=collector.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{collector.server_port}"
    variants = []
    for text in arguments.binaries:
        name, rest = text.split("=", 1)
        binary, *settings = rest.split(",")
        variables = dict(setting.split("=", 1) for setting in settings)
        variants.append((name, os.path.abspath(binary),
                         {key: value.replace("@collector", address) for key, value in variables.items()}))
    figures = {name: [] for name, _, _ in variants}
    for number in range(arguments.rounds):
        for name, binary, variables in variants:
            figures[name].append(run(binary, variables, variants[-1][1], arguments.jobs))
            print(f"round {number + 1}, {name}: {figures[name][-1]}", file=sys.stderr)
    print("| | " + " | ".join(figures) + " |\n" + "|---" * (len(figures) + 1) + "|")
    for figure in figures[next(iter(figures))][0]:
        cells = []
        for rounds in figures.values():
            values = [one[figure] for one in rounds]
            cells.append(f"{statistics.median(values):,.1f} ({min(values):,.1f} to {max(values):,.1f})")
        print(f"| {figure} | " + " | ".join(cells) + " |")
    if Collector.spans:
        print(f"The collector has taken {Collector.spans:,} bytes.", file=sys.stderr)


main()
