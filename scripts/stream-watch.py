#!/usr/bin/env python3
"""Watches decks that take their time, and a provider that falls silent, with the worker at its defaults (but as many calls at a
time as there are jobs).

  python3 scripts/stream-watch.py cards <backend-worker>     when the first card comes, how often progress, and whether the
                                                             result is the unstreamed one to the byte: 20 decks of 20 s
  python3 scripts/stream-watch.py silence <backend-worker>   when silence is noticed, and when the breaker opens: 5 calls

Needs redis-server; nothing is left running.
"""
import http.client, json, os, shutil, socket, statistics, subprocess, sys, tempfile, threading, time, urllib.request

QUEUE = "ai-jobs"


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Scene:
    """A Redis, a simulator and a worker."""

    def __init__(self, binary, jobs, stream_time):
        self.folder, self.processes = tempfile.mkdtemp(), []
        self.redis, self.simulator, self.jobs = free_port(), free_port(), jobs
        self.start("redis-server", "--port", str(self.redis), "--save", "", "--dir", self.folder)
        listen = f"127.0.0.1:{self.simulator}"
        self.start(binary, "simulate", "--listen", listen, "--stream-time", stream_time)
        self.binary = binary
        self.env = {
            "PATH": os.environ["PATH"], "REDIS_URL": f"redis://127.0.0.1:{self.redis}", "LOG_FORMAT": "json",
            "OPENAI_BASE_URL": f"http://{listen}/v1", "OPENAI_API_KEY": "sim-openai-key", "PORT": "0",
            "QUEUES": f"{QUEUE}={jobs}", "OPENAI_MAX_CONCURRENT": str(jobs), "ADMIN_FROM_LOOPBACK": "on",
        }
        for _ in range(100):
            try:
                socket.create_connection(("127.0.0.1", self.simulator)).close()
                break
            except OSError:
                time.sleep(0.05)

    def start(self, *command, **options):
        process = subprocess.Popen(command, cwd=self.folder, stdout=options.pop("stdout", subprocess.DEVNULL), **options)
        self.processes.append(process)
        return process

    def worker(self):
        process = self.start(self.binary, env=self.env, stdout=subprocess.PIPE)
        for line in process.stdout:
            told = json.loads(line)
            if str(told.get("message", "")).startswith("ready"):
                break
        self.port, self.log = told["port"], []

        def read():
            for line in process.stdout:
                self.log.append((time.monotonic(), line.decode()))

        threading.Thread(target=read, daemon=True).start()

    def enqueue(self, data):
        command = [self.binary, "enqueue", "generate-flashcards", "--data", json.dumps(data), "--queue", QUEUE]
        asked = subprocess.run(command, env=self.env, cwd=self.folder, capture_output=True, check=True, text=True)
        return asked.stdout.split()[0]

    def fault(self, fault):
        address = f"http://127.0.0.1:{self.simulator}/_sim/faults?provider=openai&match="
        request = urllib.request.Request(address, json.dumps([fault]).encode(), {"content-type": "application/json"})
        urllib.request.urlopen(request).read()

    def ask(self, *words):
        with socket.create_connection(("127.0.0.1", self.redis)) as connection:
            connection.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w.encode()) for w in words))
            return connection.recv(65536)

    def end(self):
        for process in self.processes:
            process.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def deck(n):
    content = "Plants turn light water carbon dioxide into sugar oxygen through photosynthesis inside chloroplasts"
    return {"content": content, "subject": "Biology", "topic": "Cells", "userId": f"u{n}", "count": 20,
            "nativeLanguage": "Spanish", "targetLanguage": "English"}


def follow(scene, job, begun, seen):
    """Notes when each event of a job comes, in seconds since `begun`."""
    connection = http.client.HTTPConnection("127.0.0.1", scene.port, timeout=120)
    connection.request("GET", f"/api/job-events?jobId={job}")
    answer, name = connection.getresponse(), ""
    for line in answer:
        line = line.decode().rstrip("\n")
        if line.startswith("event:"):
            name = line[6:].strip()
        elif line.startswith("data:"):
            seen.append((time.monotonic() - begun, name, json.loads(line[5:])))
            if name in ("completed", "failed"):
                return


def results(binary, stream_time, jobs, refuse):
    scene = Scene(binary, jobs, stream_time)
    try:
        if refuse:
            scene.fault({"kind": "refuse_parameter", "name": "stream"})
        scene.worker()
        seen, threads = [[] for _ in range(jobs)], []
        for n in range(jobs):
            begun = time.monotonic()
            job = scene.enqueue(deck(n))
            threads.append(threading.Thread(target=follow, args=(scene, job, begun, seen[n])))
            threads[-1].start()
        for thread in threads:
            thread.join()
        return seen
    finally:
        scene.end()


def quantile(values, share):
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def cards(binary):
    streamed = results(binary, "20s", 20, False)
    unstreamed = results(binary, "0s", 20, True)
    first = [next(at for at, name, _ in events if name == "card") for events in streamed]
    ends = [events[-1][0] for events in streamed]
    gaps = []
    for events in streamed:
        begun = next(at for at, name, _ in events if name in ("connected", "active"))
        times = [begun] + [at for at, name, _ in events if name in ("progress", "completed")]
        gaps.append(max(b - a for a, b in zip(times, times[1:])))
    early = [len({body["index"] for at, name, body in events if name == "card" and at < events[-1][0] - 0.5}) for events in streamed]
    text = lambda events: json.dumps(events[-1][2]["result"], ensure_ascii=False)
    equal = sum(text(a) == text(b) for a, b in zip(streamed, unstreamed))
    print(f"20 decks of 20 cards in 20 s each, side by side; the whole took {min(ends):.1f} to {max(ends):.1f} s")
    print(f"first card after enqueueing: p50 {statistics.median(first):.2f} s, p95 {quantile(first, .95):.2f} s, at most {max(first):.2f} s")
    made = [len(events[-1][2]["result"]["flashcards"]) for events in streamed]
    print(f"cards told half a second before the end: {min(early)} to {max(early)} of {min(made)} to {max(made)}")
    print(f"longest time without progress: p50 {statistics.median(gaps):.2f} s, at most {max(gaps):.2f} s")
    print(f"results equal to the unstreamed ones, byte by byte: {equal} of {len(streamed)}")


def silence(binary):
    for what, fault in [("accepts, and sends nothing", {"kind": "delay", "ms": 600000}),
                        ("falls silent in the middle of the stream", {"kind": "stream_silence", "percent": 5})]:
        scene = Scene(binary, 5, "0s")
        try:
            scene.fault(fault)
            scene.worker()
            begun = time.monotonic()
            for n in range(5):
                scene.enqueue(deck(n))
            last, noticed, opened = time.monotonic() - begun, None, None
            while opened is None and time.monotonic() < begun + 60:
                lines = [at - begun for at, line in scene.log if "sent nothing for" in line]
                noticed = noticed or (min(lines) if lines else None)
                if b"OPEN" in scene.ask("GET", "circuit:openai:state"):
                    opened = time.monotonic() - begun
                time.sleep(0.05)
            print(f"a provider that {what}: noticed after {noticed or float('nan'):.1f} s, breaker OPEN after {opened or float('nan'):.1f} s (5 calls, the last enqueued after {last:.1f} s)")
        finally:
            scene.end()


if __name__ == "__main__":
    {"cards": cards, "silence": silence}[sys.argv[1]](os.path.abspath(sys.argv[2]))
