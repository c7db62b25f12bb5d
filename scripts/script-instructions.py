#!/usr/bin/env python3
"""Counts the instructions that redis-server runs for scripts, under valgrind: they repeat on a machine whose speed does not.

  python3 scripts/script-instructions.py fair     for each job of calls that complete and claim, with the line shared and not
  python3 scripts/script-instructions.py money    for each paid call, with and without the books, as functions
  python3 scripts/script-instructions.py cost     for each command that a script runs
  python3 scripts/script-instructions.py gate     fails where a count is more than 5 % above benches/script-instructions.json
  python3 scripts/script-instructions.py accept   writes that file

The difference of a long and a short run is counted, so that the start of the server does not matter. Scripts are evaluated
(EVALSHA), but those of `money`. Their libraries are in target/script-libraries, where `cargo nextest run --lib -E
'test(every_script_that_is_to_be)'` puts them. Needs redis-server and valgrind.
"""
import json, os, platform, re, socket, subprocess, sys, tempfile, time

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
QUEUE = "ai-jobs"
ROW = "openai|gpt-6-luna|generate-flashcards"


def read(path):
    with open(os.path.join(ROOT, path), encoding="utf-8") as file:
        return file.read()


class Server:
    """A redis-server under callgrind, and one connection to it."""

    def __init__(self):
        self.folder = tempfile.mkdtemp()
        self.counts = os.path.join(self.folder, "callgrind.out")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=" + self.counts, "redis-server"]
        command += ["--port", str(port), "--save", "", "--dir", self.folder]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(300):
            try:
                self.socket = socket.create_connection(("127.0.0.1", port))
                break
            except OSError:
                time.sleep(0.1)
        self.file = self.socket.makefile("rb")

    def ask(self, *words):
        parts = [b"*%d\r\n" % len(words)]
        for word in words:
            word = str(word).encode()
            parts.append(b"$%d\r\n%s\r\n" % (len(word), word))
        self.socket.sendall(b"".join(parts))
        return self.answer()

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
            return None if rest == b"-1" else [self.answer() for _ in range(int(rest))]
        return rest

    def instructions(self):
        self.socket.sendall(b"SHUTDOWN NOSAVE\r\n")
        self.process.wait()
        with open(self.counts, encoding="utf-8") as file:
            return int(re.search(r"^(?:totals|summary): (\d+)", file.read(), re.M)[1])


def per_unit(work, short, long):
    """Instructions of one unit of work(server, units)."""
    counts = []
    for units in (short, long):
        server = Server()
        work(server, units)
        counts.append(server.instructions())
    return (counts[1] - counts[0]) / (long - short)


def layout_script(layout, name):
    folder = f"src/queue/{layout}/"
    files = re.search(rf"\b{name}(?: as function)? = ([^;]+);", read(folder + "scripts.rs"))[1]
    return read(folder + "common.lua") + "".join(read(folder + file) for file in re.findall(r'"([^"]+)"', files))


def fair(layout, key, owners, batch):
    def work(server, calls):
        claim, complete = (server.ask("SCRIPT", "LOAD", layout_script(layout, name)).decode() for name in ("CLAIM", "COMPLETE"))
        added = 0

        def add(count):
            nonlocal added
            for added in range(added + 1, added + count + 1):
                job, owner = f"01JD{added:022}", added * 7919 % owners
                content = ("A cell is the unit of life. " * 11)[:300]
                data = f'{{"content":"{content}","userId":"user_2x{owner:07}"}}'
                if layout == "bullmq":
                    fields = ["name", "generate-flashcards", "opts", '{"attempts":3}', "timestamp", 1, "data", data]
                    server.ask("HSET", f"bull:{QUEUE}:{job}", *fields)
                    server.ask("LPUSH", f"bull:{QUEUE}:wait", job)
                else:
                    server.ask("HSET", f"{QUEUE}:data", job, f'{{"type":"generate-flashcards","data":{data}}}')
                    server.ask("HSET", f"{QUEUE}:meta:{job}", "attempts", 0, "max_attempts", 3, "status", "Pending")
                    server.ask("RPUSH", f"{QUEUE}:active", job)

        names = ["active", "scheduled", "inflight:w", "data", "leases", "paused", "session:w", "fair"]
        keys = [f"{QUEUE}:{name}" for name in names]
        if layout == "apalis":
            server.ask("ZADD", keys[4], 10**15, "w")
        add(500)
        number, held, done = 0, [], 0
        while done < calls * batch:
            number += 1
            ended = []
            for job in held:
                ended += [job, f"w:{number - 1}", '{"Ok":{}}', ""]
            if layout == "bullmq":
                head = ["w", number, batch, 4 << 20, 3600000, 3600, 262144, key, 1, 0]
                if held:
                    rows = server.ask("EVALSHA", complete, 1, f"bull:{QUEUE}:", *head, 86400000, 10000, *ended)[1][0]
                else:
                    rows = server.ask("EVALSHA", claim, 1, f"bull:{QUEUE}:", *head)[0]
            else:
                if held:
                    of = [keys[2], f"{QUEUE}:done", f"{QUEUE}:ended:done", keys[3], keys[7], keys[0], keys[1]]
                    prefixes = [f"{QUEUE}:meta:", f"{QUEUE}:history:"]
                    server.ask("EVALSHA", complete, 7, *of, *prefixes, 86400000, 10000, 262144, *ended)
                head = ["w", number, batch, 4 << 20, 262144, f"{QUEUE}:meta:", 3, f"{QUEUE}:inflight:", key, 1, 0, 3600000]
                rows = server.ask("EVALSHA", claim, 8, *keys, *head)
            held = [row[0].decode() for row in rows]
            done += len(held)
            add(len(held))

    # The first calls give all jobs that wait their places.
    first = max(10, 200 // batch)
    return per_unit(work, first, first + 640 // batch) / batch


def function(name, body):
    callback = "function(KEYS, ARGV)\n" + body + "\nend"
    return f"#!lua name={name}\nredis.register_function('{name}', {callback})"


def money(kind, batch):
    scripts = [read(f"target/script-libraries/bw_ledger_{name}.lua") for name in ("open", "close")]
    if kind == "before":
        scripts = [function(name, read(f"benches/money/{name}_before.lua")) for name in ("open", "keep")]
    entry, answer = "0123456789abcdef:deck", '=1500 {"content":"' + "x" * 6000 + '"}'

    def student(page):
        return f"5f0c2d3a-1111-4222-8333-{page % 5000:012}"

    def work(server, calls):
        opening, closing = (server.ask("FUNCTION", "LOAD", script).decode() for script in scripts)
        day = time.strftime("%Y-%m-%d", time.gmtime())
        for key in (day, day[:7]):
            known = [word for page in range(5000) for word in (f"p:{student(page)}", 1)]
            server.ask("HSET", f"spend:students:{key}", *known)
        head = ["replica-1", 15000, day, int(time.time()) // 86400, 86400000]
        budget = 10**15 if kind == "budgets" else ""
        permits = [word for place in range(batch) for word in (f"replica-1:{place}", "1800000000000:0:360000000:0:3600000000")]
        server.ask("HSET", "gate:openai:openai:lease_data", *permits)
        for call in range(calls):
            pages = range(call * batch, (call + 1) * batch)
            keys = [f"ledger:{page}" for page in pages]
            if kind == "before":
                marks, answers = [], []
                for page in pages:
                    marks += [entry, f"?w:{page}:0"]
                    answers += [entry, answer]
                server.ask("FCALL", opening, batch, *keys, head[4], *marks)
                server.ask("FCALL", closing, batch, *keys, head[4], *answers)
            else:
                opened, closed = head + ["", budget, budget, budget], head + [10000, "", pages[0] + 1]
                for place, page in enumerate(pages):
                    payer = f"{len(student(page))} {student(page)}{ROW}"
                    opened += [entry, f"?w:{page}:0", page + 1, 9000000, payer, f"replica-1:{place}"]
                    closed += [entry, f"$w:{page}:0", answer, "paid 750000 deck", "generate-flashcards"]
                for page in pages:
                    closed += [page + 1, "paid", 750000, student(page), ROW, 812, 0, 1500, 0]
                server.ask("FCALL", opening, batch + 1, "gate:openai:openai:lease_data", *keys, *opened)
                server.ask("FCALL", closing, batch, *keys, *closed)
            server.ask("UNLINK", *keys)

    return per_unit(work, 25, 25 + max(20, 160 // batch)) / batch


COMMANDS = {
    "nothing": "local n = i",
    "tonumber": "local n = tonumber('123456789')",
    "format": "local n = string.format('%d', 123456789)",
    "function": "local f = function() return i end",
    "TIME": "redis.call('TIME')",
    "GET": "redis.call('GET', 'none')",
    "SET with EX": "redis.call('SET', 'k', '100', 'EX', '172800')",
    "HINCRBY by text": "redis.call('HINCRBY', 'h', 'a', '750000')",
    "HINCRBY by number": "redis.call('HINCRBY', 'h', 'a', 750000)",
    "HMGET of 5": "redis.call('HMGET', 'h', 'a', 'b', 'c', 'd', 'e')",
    "HSET of 5": "redis.call('HSET', 'h', 'a', '1', 'b', '2', 'c', '3', 'd', '4', 'e', '5')",
}


def cost(body):
    return per_unit(lambda server, times: server.ask("EVAL", f"for i = 1, {times} do {body} end", 0), 200, 1200)


BASELINE = os.path.join(ROOT, "benches", "script-instructions.json")
TOLERANCE = 1.05


def counted():
    """What the gate compares: instructions a job, and a paid call."""
    for layout in ("bullmq", "apalis"):
        for key in ("", "userId"):
            name = "shared fairly" if key else "first come, first served"
            yield f"{layout}, 8 jobs a call, {name}", fair(layout, key, 50, 8)
    for kind, name in (("now", "booked"), ("budgets", "booked, with budgets")):
        yield f"16 paid calls a script, {name}", money(kind, 16)


def gate(accept):
    """Returns whether no count has grown by more than the tolerance. Another redis-server has other counts."""
    version = re.search(r"v=(\S+)", subprocess.check_output(["redis-server", "--version"], text=True))[1]
    server = f"redis-server {version} on {platform.machine()}"
    known = json.loads(read("benches/script-instructions.json")) if os.path.exists(BASELINE) else {}
    if not accept and known.get("server") != server:
        print(f"instructions are not compared: {server} is here, the counts are those of {known.get('server')}")
        return True
    counts, held = {}, True
    for name, count in counted():
        counts[name] = round(count)
        before = known.get("counts", {}).get(name)
        is_above = not accept and before is not None and count > before * TOLERANCE
        held = held and not is_above
        change = "new" if before is None else f"{count / before - 1:+.1%}"
        print(f"{name}: {count:,.0f} ({change}){': more than 5 % above the accepted count' if is_above else ''}", flush=True)
    if accept:
        with open(BASELINE, "w", encoding="utf-8") as file:
            file.write(json.dumps({"server": server, "counts": counts}, indent=2) + "\n")
    elif not held:
        print("A script costs Redis more than before. Reduce that, or accept it: python3 scripts/script-instructions.py accept")
    return held


if sys.argv[1:] in (["gate"], ["accept"]):
    sys.exit(0 if gate(sys.argv[1] == "accept") else 1)
elif sys.argv[1:] == ["fair"]:
    print("| layout | owners | jobs a call | off | on | more |\n|---|---|---|---|---|---|")
    for layout in ("bullmq", "apalis"):
        for owners, batch in ((50, 2), (50, 8), (1, 8), (50, 16)):
            off, on = (fair(layout, key, owners, batch) for key in ("", "userId"))
            print(f"| {layout} | {owners} | {batch} | {off:,.0f} | {on:,.0f} | {on - off:,.0f} |", flush=True)
elif sys.argv[1:] == ["money"]:
    print("| calls in a script | before money | with money | with budgets | difference |\n|---|---|---|---|---|")
    for batch in (1, 4, 16, 64):
        before, now, budgets = (money(kind, batch) for kind in ("before", "money", "budgets"))
        print(f"| {batch} | {before:,.0f} | {now:,.0f} | {budgets:,.0f} | {now - before:,.0f} |", flush=True)
elif sys.argv[1:] == ["cost"]:
    empty = cost(COMMANDS["nothing"])
    for name, body in COMMANDS.items():
        print(f"{name}: {cost(body) - empty:,.0f}", flush=True)
else:
    sys.exit(__doc__)
