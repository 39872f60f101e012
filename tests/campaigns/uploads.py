"""Concurrent uploads to the app, of which many disconnect at random moments.

    python -m tests.campaigns.uploads --trials 200

All uploads start at about the same time, each from a client of its own: an image that is valid,
damaged or too large. Clients disconnect during the upload, after it, or while they wait for the
result. Those that stay must get an answer: the three images, an explanation, or that the queue is
full. Afterwards the app must still translate, its memory must be bounded, and when it has stopped
no temporary file may be left.
"""

import argparse
import contextlib
import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from tests.campaigns import harness, runs
from tests.campaigns.images import damage
from tests.translators import save_run

GROWTH = 700  # MiB
SECONDS = 240


class Disconnected(Exception):  # noqa: N818 - on purpose
    """The client of a trial left."""


def image_file(rng: np.random.Generator) -> bytes:
    """Return the bytes of an image, of one in four damaged, of one in eight too large."""
    large = rng.random() < 0.125
    shape = (300, 400, 3) if large else (int(rng.choice([16, 32, 48])), 40, 3)
    stream = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(stream, "PNG")
    return damage(rng, stream.getvalue()) if rng.random() < 0.25 else stream.getvalue()


def upload(port: int, seed: int, leave: bool) -> str:
    """Upload an image as the page does, and wait for its translation.

    Args:
        port: Of the app.
        seed: Determines the image and the moment to leave.
        leave: Whether to disconnect.

    Returns:
        What the app answered.
    """
    rng = np.random.default_rng(seed)
    moment = ("sending", "uploaded", "waiting")[int(rng.integers(3))] if leave else ""
    data, session = image_file(rng), f"session{seed}"
    time.sleep(rng.uniform(0, 1))
    boundary = "boundary"
    body = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="image.png"\r\n'
        "Content-Type: image/png\r\n\r\n"
    ).encode()
    body += data + f"\r\n--{boundary}--\r\n".encode()
    kind = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    if moment == "sending":
        with socket.create_connection(("127.0.0.1", port), SECONDS) as connection:
            head = f"POST /gradio_api/upload HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
            head += f"Content-Type: {kind['Content-Type']}\r\n\r\n"
            connection.sendall(head.encode() + body[: int(rng.integers(1, len(body)))])
        raise Disconnected(moment)
    status, text = request(port, "POST", "/gradio_api/upload", body, kind)
    if status != 200:
        return f"upload: {status}"
    [path] = json.loads(text)
    if moment == "uploaded":
        raise Disconnected(moment)
    file = {"path": path, "orig_name": "image.png", "meta": {"_type": "gradio.FileData"}}
    event = {
        "data": [file, "a_to_b"],
        "fn_index": 0,
        "session_hash": session,
        "trigger_id": 1,
        "event_data": None,
    }
    as_json = {"Content-Type": "application/json"}
    status, text = request(
        port, "POST", "/gradio_api/queue/join", json.dumps(event).encode(), as_json
    )
    if status != 200:
        return f"queue: {status} {text[:80]}"
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    with contextlib.closing(connection):
        connection.request("GET", f"/gradio_api/queue/data?session_hash={session}")
        response = connection.getresponse()
        if moment == "waiting":
            response.readline()
            raise Disconnected(moment)
        answer = ""
        while line := response.readline().decode():
            message = json.loads(line[6:]) if line.startswith("data: ") else {}
            if message.get("msg") == "process_generating":
                answer = answer or json.dumps(message["output"])
            if message.get("msg") in ("process_completed", "queue_full"):
                answer = answer or json.dumps(message)
                break
    for sign in ("8-bit", "cannot be read", "expected at most", "queue"):
        if sign in answer:
            return sign
    raise harness.WrongResultError(f"no answer: {answer[:500]}")


def request(
    port: int, method: str, path: str, body: bytes, headers: dict[str, str]
) -> tuple[int, str]:
    """Send a request and return the status and the text of the response."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    with contextlib.closing(connection):
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return response.status, response.read().decode()


def trial(port: int, seed: int, leave: bool) -> harness.Outcome:
    """Upload once."""
    start = time.monotonic()
    try:
        kind, detail = "completed", upload(port, seed, leave)
    except Disconnected as error:
        kind, detail = "completed", f"disconnected, {error}"
    except Exception as error:
        kind, detail = "wrong result", f"{type(error).__name__}: {error}"
    return harness.Outcome(kind, detail, time.monotonic() - start)


def campaign(args: argparse.Namespace) -> Iterator[harness.Outcome]:
    """Upload from all clients, then check the app."""
    with TemporaryDirectory() as name:
        workdir, scratch, log = (Path(name) / part for part in ("run", "scratch", "log"))
        scratch.mkdir()
        save_run(workdir, (7,))
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        command = [sys.executable, "-m", "cyclegan_jax.app", f"--workdir={workdir}"]
        command += [f"--port={port}", "--max_pixels=20000"]
        environment = os.environ | {"TMPDIR": str(scratch), "JAX_PLATFORMS": "cpu"}
        with log.open("w") as file:
            process = subprocess.Popen(
                command, cwd=runs.ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT
            )
        while "http://" not in log.read_text():
            if process.poll() is not None:
                raise RuntimeError(log.read_text())
            time.sleep(0.1)
        yield trial(port, args.seed, leave=False)  # compiles
        before = harness.memory("VmRSS", process.pid)
        with ThreadPoolExecutor(args.trials) as pool:
            seeds = range(args.seed * 1_000_000 + 1, args.seed * 1_000_000 + 1 + args.trials)
            yield from pool.map(lambda seed: trial(port, seed, leave=seed % 2 == 0), seeds)
        afterwards = trial(port, args.seed, leave=False)
        growth = harness.memory("VmHWM", process.pid) - before
        yield afterwards._replace(mib=growth)
        process.send_signal(signal.SIGTERM)
        code = process.wait(60)
        problems = []
        if growth > GROWTH:
            problems.append(f"memory grew by {growth:.0f} MiB")
        if code != 143:
            problems.append(f"exit code {code}")
        if left := [str(path) for path in scratch.rglob("*")]:
            problems.append(f"files are left: {left[:5]}")
        if "Traceback" in log.read_text():
            problems.append(log.read_text()[-3000:])
        kind = "wrong result" if problems else "completed"
        yield harness.Outcome(kind, "; ".join(problems) or "stopped")


if __name__ == "__main__":
    harness.main(__doc__, campaign, trials=200)
