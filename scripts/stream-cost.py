#!/usr/bin/env python3
"""Measures the CPU time of a worker for a job whose answer is streamed, beside one whose answer comes in one piece.

  python3 scripts/stream-cost.py [options] <backend-worker>      a release build

  --jobs N            jobs of a round (4000)
  --rounds N          rounds, in turns; the median counts (5)
  --chunks N          about so many events for the deck of 20 cards (800, one for each token)
  --concurrency N     jobs at a time (20)
  --modes A,B         of: whole, body, chunks, writes, slow
  --over SECONDS      how long an answer takes with `slow` (4)
  --instructions      counts instructions under valgrind: they repeat on a machine whose speed does not

The stub answers at once, with the same deck of 23 cards: `whole` in one piece, because it refuses `stream`; `body` as a
stream in a body of known length; `chunks` with an HTTP chunk for each event, all in one write; `writes` with a write for
each event; `slow` like `writes`, one after the other, as a model writes. Needs redis-server; nothing is left running.
"""
import argparse, asyncio, json, os, re, shutil, signal, socket, statistics, subprocess, sys, tempfile, threading, time

QUEUE = "ai-jobs"
TICKS = os.sysconf("SC_CLK_TCK")


def deck():
    cards = [
        {
            "front": f"chloroplast membrane {n}",
            "back": f"la membrana interior del cloroplasto {n}",
            "topic": "Photosynthesis",
            "difficulty": ["beginner", "intermediate", "expert"][n % 3],
            "example": f"Light reaches the chloroplast membrane {n} of each cell in the leaf of a plant.",
            "pronunciation": f"/ˈklɔːrəplæst ˈmembreɪn {n}/",
        }
        for n in range(23)
    ]
    return json.dumps({"flashcards": cards}, ensure_ascii=False, separators=(",", ":"))


USAGE = {
    "prompt_tokens": 700, "completion_tokens": 1400, "total_tokens": 2100,
    "prompt_tokens_details": {"cached_tokens": 0}, "completion_tokens_details": {"reasoning_tokens": 0},
}
HEAD = {"id": "chatcmpl-CkJ5Tn0Zq4Yc8VwXr2Lh7PsBd", "created": 1796071200, "model": "gpt-6-luna"}


def whole(text):
    choice = {"index": 0, "message": {"role": "assistant", "content": text, "refusal": None}, "finish_reason": "stop"}
    return json.dumps({**HEAD, "object": "chat.completion", "choices": [choice], "usage": USAGE}, ensure_ascii=False, separators=(",", ":")).encode()


def events(text, count, obfuscated):
    size = max(1, round(len(text) / count))
    number = 0

    def event(choices, usage):
        nonlocal number
        number += 1
        body = {**HEAD, "object": "chat.completion.chunk", "service_tier": "default", "system_fingerprint": "fp_8bda4d3a2c"}
        body |= {"choices": choices, "usage": usage}
        if obfuscated:
            body["obfuscation"] = "x9KqTz4bWm"[: 3 + number % 7]
        return b"data: " + json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n"

    def part(delta, finish=None):
        return event([{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}], None)

    parts = [part({"role": "assistant", "content": "", "refusal": None})]
    parts += [part({"content": text[at : at + size]}) for at in range(0, len(text), size)]
    return parts + [part({}, "stop"), event([], USAGE), b"data: [DONE]\n\n"]


class Stub(threading.Thread):
    """Answers each request at once."""

    def __init__(self, mode, chunks, obfuscated, over):
        super().__init__(daemon=True)
        self.over = over if mode == "slow" else 0
        text = deck()
        self.mode, self.served, self.port, self.ready = mode, 0, None, threading.Event()
        parts = events(text, chunks, obfuscated)
        self.events = len(parts)
        head = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\n"
        sized = lambda kind, body: head % kind + b"Content-Length: %d\r\n\r\n" % len(body) + body
        chunked = [b"%x\r\n%s\r\n" % (len(part), part) for part in parts]
        begin = head % b"text/event-stream" + b"Transfer-Encoding: chunked\r\n\r\n"
        self.answer = {
            "whole": [sized(b"application/json", whole(text))],
            "body": [sized(b"text/event-stream", b"".join(parts))],
            "chunks": [begin + b"".join(chunked) + b"0\r\n\r\n"],
            "writes": [begin, *chunked, b"0\r\n\r\n"],
            "slow": [begin, *chunked, b"0\r\n\r\n"],
        }[mode]
        error = b'{"error":{"message":"Unsupported parameter: stream","type":"invalid_request_error","param":"stream","code":"unsupported_parameter"}}'
        self.refusal = b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(error) + error

    def run(self):
        stub = self

        class Connection(asyncio.Protocol):
            def connection_made(self, transport):
                self.transport, self.input = transport, b""
                self.socket = transport.get_extra_info("socket")
                self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

            def data_received(self, data):
                self.input += data
                while (end := self.input.find(b"\r\n\r\n")) >= 0:
                    length = re.search(rb"content-length: *(\d+)", self.input[:end], re.I)
                    end += 4 + (int(length[1]) if length else 0)
                    if len(self.input) < end:
                        return
                    request, self.input = self.input[:end], self.input[end:]
                    if stub.mode == "whole" and b'"stream"' in request:
                        self.transport.write(stub.refusal)
                        continue
                    asyncio.get_running_loop().create_task(self.answer())

            async def answer(self):
                begun = time.monotonic()
                for nth, piece in enumerate(stub.answer):
                    if stub.over and (left := begun + stub.over * nth / len(stub.answer) - time.monotonic()) > 0:
                        await asyncio.sleep(left)
                    self.transport.write(piece)
                stub.served += 1

        async def serve():
            server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", 0)
            self.port = server.sockets[0].getsockname()[1]
            self.ready.set()
            await server.serve_forever()

        asyncio.run(serve())


class Redis:
    def __init__(self, folder):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        command = ["redis-server", "--port", str(self.port), "--save", "", "--appendonly", "no", "--dir", folder]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        for _ in range(300):
            try:
                self.socket = socket.create_connection(("127.0.0.1", self.port))
                break
            except OSError:
                time.sleep(0.05)
        self.file = self.socket.makefile("rb")

    def send(self, *commands):
        out = []
        for words in commands:
            out.append(b"*%d\r\n" % len(words))
            for word in words:
                word = word if isinstance(word, bytes) else str(word).encode()
                out.append(b"$%d\r\n%s\r\n" % (len(word), word))
        self.socket.sendall(b"".join(out))
        return [self.answer() for _ in commands]

    def answer(self):
        line = self.file.readline()
        kind, rest = line[:1], line[1:-2]
        if kind == b"-":
            raise RuntimeError(rest.decode())
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return None if rest == b"-1" else self.file.read(int(rest) + 2)[:-2]
        if kind == b"*":
            return [self.answer() for _ in range(int(rest))]
        return rest


def enqueue(redis, first, count):
    data = {"content": "Plants turn light, water and carbon dioxide into sugar and oxygen. " * 4, "subject": "Biology",
            "topic": "Photosynthesis", "nativeLanguage": "Spanish", "targetLanguage": "English", "count": 20}
    options = '{"attempts":3,"removeOnComplete":{"count":100}}'
    now = int(time.time() * 1000)
    for start in range(first, first + count, 500):
        commands = []
        for n in range(start, min(start + 500, first + count)):
            job = f"bull:{QUEUE}:{n}"
            data["userId"] = f"user-{n}"
            commands.append(["HSET", job, "name", "generate-flashcards", "data", json.dumps(data), "opts", options,
                             "timestamp", now, "delay", 0, "priority", 0])
            commands.append(["LPUSH", f"bull:{QUEUE}:wait", n])
        redis.send(*commands)
    redis.send(["ZADD", f"bull:{QUEUE}:marker", 0, "0"])


def cpu(pid):
    fields = open(f"/proc/{pid}/stat").read().rsplit(") ", 1)[1].split()
    return int(fields[11]) / TICKS, int(fields[12]) / TICKS


def until(what, condition, seconds=300):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(f"{what}: not within {seconds} s")
        time.sleep(0.002)


def run(options, mode, jobs, wrapper=()):
    """CPU time of a job, µs: user, system; of the run under a wrapper nothing."""
    folder = tempfile.mkdtemp()
    redis, worker = None, None
    try:
        redis = Redis(folder)
        stub = Stub(mode, options.chunks, options.obfuscated, options.over)
        stub.start()
        stub.ready.wait()
        env = {
            "PATH": os.environ["PATH"], "REDIS_URL": f"redis://127.0.0.1:{redis.port}", "PORT": "0", "LOG_FORMAT": "json",
            "QUEUES": f"bullmq:{QUEUE}={options.concurrency}", "OPENAI_API_KEY": "test",
            "OPENAI_BASE_URL": f"http://127.0.0.1:{stub.port}/v1", "OPENAI_RATE_LIMIT_RPM": "100000000",
            "OPENAI_MAX_CONCURRENT": str(options.concurrency), "RUST_LOG": "warn",
        }
        worker = subprocess.Popen([*wrapper, options.worker], env=env, cwd=folder, stdout=subprocess.DEVNULL)
        warm = max(options.concurrency, jobs // 10)
        served = lambda count: lambda: stub.served >= count or worker.poll() is not None
        enqueue(redis, 1, warm)
        until("the warm-up", served(warm))
        time.sleep(0.3)
        before, started = cpu(worker.pid), time.monotonic()
        enqueue(redis, warm + 1, jobs)
        until("the run", served(warm + jobs))
        done = lambda: redis.send(["LLEN", f"bull:{QUEUE}:active"], ["LLEN", f"bull:{QUEUE}:wait"]) == [0, 0]
        until("the end", done)
        spent = [(b - a) / jobs * 1e6 for a, b in zip(before, cpu(worker.pid))]
        assert redis.send(["ZCARD", f"bull:{QUEUE}:failed"], ["ZCARD", f"bull:{QUEUE}:delayed"]) == [0, 0], "jobs failed"
        worker.send_signal(signal.SIGTERM)
        worker.wait(60)
        return spent, jobs / (time.monotonic() - started), stub.events
    finally:
        for process in (worker, redis and redis.process):
            if process and process.poll() is None:
                process.kill()
        shutil.rmtree(folder, ignore_errors=True)


def instructions(options, mode):
    def count(jobs):
        with tempfile.TemporaryDirectory() as folder:
            out = options.profile and f"{options.profile}.{mode}.{jobs}" or os.path.join(folder, "out")
            _, _, events = run(options, mode, jobs, ["valgrind", "-q", "--tool=callgrind", f"--callgrind-out-file={out}"])
            return int(re.search(r"^summary: (\d+)", open(out).read(), re.M)[1]), events

    (few, _), (many, events) = count(options.jobs // 4), count(options.jobs)
    warm = lambda jobs: max(options.concurrency, jobs // 10)
    return (many - few) / (options.jobs + warm(options.jobs) - options.jobs // 4 - warm(options.jobs // 4)), events


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("worker")
    parser.add_argument("--jobs", type=int, default=None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--chunks", type=int, default=800)
    parser.add_argument("--concurrency", type=int, default=20)
    parser.add_argument("--modes", default="whole,body,chunks,writes")
    parser.add_argument("--over", type=float, default=4)
    parser.add_argument("--instructions", action="store_true")
    parser.add_argument("--obfuscated", action="store_true", help="events end with padding of varying length, as OpenAI's do")
    parser.add_argument("--profile", help="keeps callgrind's output under this name")
    options = parser.parse_args()
    options.worker = os.path.abspath(options.worker)
    options.jobs = options.jobs or (400 if options.instructions else 4000)
    modes = options.modes.split(",")
    base = None
    if options.instructions:
        for mode in modes:
            count, events = instructions(options, mode)
            base = base or count
            print(f"{mode}: {count:,.0f} instructions a job, {count / base - 1:+.1%}, {(count - base) / events:,.0f} more for each of {events} events", flush=True)
        return
    figures = {mode: [] for mode in modes}
    for round in range(options.rounds):
        for mode in modes:
            (user, system), rate, events = run(options, mode, options.jobs)
            figures[mode].append((user + system, user, system, rate))
            print(f"round {round + 1}, {mode}: {user + system:.0f} µs a job (user {user:.0f}, system {system:.0f}), {rate:.0f} jobs/s", file=sys.stderr, flush=True)
    for mode in modes:
        total, user, system, rate = (statistics.median(column) for column in zip(*figures[mode]))
        base = base or total
        print(f"{mode}: {total:.0f} µs a job (user {user:.0f}, system {system:.0f}), {total / base - 1:+.1%}; {(total - base) / events:.2f} µs more for each of {events} events")


if __name__ == "__main__":
    main()
