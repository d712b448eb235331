"""How many tokens a second a server writes for one client, and for several at once.

    python benchmarks/serve.py [--shape NAME] [--clients N] [--rounds N] [--weights NAME] [--temperature X]

The model has random weights, the shape of GPT-2 with 124M parameters unless told otherwise, and a vocabulary of as many
characters. `python -m gpt.serve` runs in a process of its own; clients stream completions over HTTP, from prompts
of different lengths. One client and several take turns; quoted are medians, and their ratio. Counted are the tokens of
a turn from its first byte sent to its last byte received, so the reading of the prompts is included.
"""

import argparse
import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.random_model import add_numbers, add_shape, write_model

ROOT = Path(__file__).resolve().parents[1]


async def complete(port, length, args):
    """Stream one completion of a prompt of that length; returns how many tokens it has."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = {"model": "model", "prompt": [length] * length, "max_tokens": args.tokens, "seed": length, "stream": True}
    body |= {"temperature": args.temperature, "stream_options": {"include_usage": True}}
    data = json.dumps(body).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    writer.write(head.encode() + data)
    answer = await reader.read(-1)
    writer.close()
    return int(re.findall(rb'"completion_tokens":(\d+)', answer)[-1])


async def turn(port, clients, args):
    """Tokens a second of so many clients at once."""
    start = time.perf_counter()
    written = await asyncio.gather(*(complete(port, args.prompt + 5 * i, args) for i in range(clients)))
    return sum(written) / (time.perf_counter() - start)


def race(port, args):
    """{number of clients: median tokens a second}."""
    speeds = {count: [] for count in (1, args.clients)}
    for count in speeds:
        asyncio.run(turn(port, count, args))  # compiles the loops
    for _ in tqdm(range(args.rounds), unit="round", leave=False):
        for count, values in speeds.items():
            values.append(asyncio.run(turn(port, count, args)))
    return {count: statistics.median(values) for count, values in speeds.items()}


def resident(pid):
    """MB that a process has in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 10**6


def arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    numbers = {
        "clients": (8, "clients at once"),
        "rounds": (5, "turns of each number of clients"),
        "prompt": (16, "tokens of the first client's prompt; each further one has five more"),
        "tokens": (128, "tokens of each completion"),
    }
    add_shape(parser)
    add_numbers(parser, numbers)
    parser.add_argument("--temperature", type=float, default=1.0, metavar="X", help="0 is greedy decoding (default 1)")
    parser.add_argument("--weights", default="float32", metavar="NAME", help="as of gpt.serve")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here too")
    return parser.parse_args(argv)


def main(argv=None):
    args = arguments(argv)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model"
        path.mkdir()
        write_model(path, args.shape)
        command = [sys.executable, "-m", "gpt.serve", str(path), "--port", "0", "--weights", args.weights]
        command += ["--max-batch", str(args.clients), "--device", "cpu"]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
            try:
                port = int(re.search(r":(\d+)/v1", server.stdout.readline())[1])
                results = race(port, args)
                memory = resident(server.pid)
            finally:
                server.terminate()
    one, several = results.values()
    print(f"{args.weights}: {one:.1f} tokens a second for one client, {several:.1f} for {args.clients}")
    print(f"{several / one:.2f} times as many; {memory} MB of memory")
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
