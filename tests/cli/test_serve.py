"""`ebm serve`: the texts of `ebm sample`, clear errors, and work that ends with its client."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn
from click.testing import Result

from ebm_wgpu.embedding import TextEmbedder
from ebm_wgpu.kernels import KernelDevice
from ebm_wgpu.serving.app import create_app
from ebm_wgpu.training.loading import LoadedRun, load_run

from .conftest import ebm, one_line_error

ENDLESS = 10**9
"""Tokens that nobody lives to see written."""


@contextmanager
def serving(run: LoadedRun, device: KernelDevice, **options: int) -> Iterator[httpx.Client]:
    """A client of a server in a thread of this process."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(create_app(run, device, **options), log_level="error", lifespan="on")
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        port = listener.getsockname()[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


@pytest.fixture(scope="module")
def run(trained: tuple[Path, Result], numba_device: KernelDevice) -> LoadedRun:
    return load_run(trained[0], numba_device)


@pytest.fixture(scope="module")
def client(run: LoadedRun, numba_device: KernelDevice) -> Iterator[httpx.Client]:
    with serving(run, numba_device) as client:
        yield client


def complete(client: httpx.Client, **asked: Any) -> dict[str, Any]:
    answer = client.post("/v1/completions", json={"max_tokens": 12, "seed": 3, **asked})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def events(client: httpx.Client, **asked: Any) -> list[dict[str, Any]]:
    asked = {"max_tokens": 12, "seed": 3, "stream": True, **asked}
    with client.stream("POST", "/v1/completions", json=asked) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


def test_it_writes_what_sample_writes(client: httpx.Client, run: LoadedRun) -> None:
    options = {"temperature": 0.7, "top_k": 20, "top_p": 0.9, "repetition_penalty": 1.1}
    words = [word for k, v in options.items() for word in (f"--{k.replace('_', '-')}", v)]
    result = ebm(
        *("sample", "--checkpoint", run.run.path, "--prompt", "the cat", "--device", "numba"),
        *("--max-tokens", 12, "--seed", 3, *words),
    )
    answer = complete(client, prompt="the cat", echo=True, **options)
    assert answer["choices"][0]["text"] + "\n" == result.stdout
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"] == {"completion_tokens": 12}
    assert answer["model"] == run.run.path.name


@pytest.mark.parametrize("echo", [False, True])
def test_pieces_join_to_the_text(client: httpx.Client, echo: bool) -> None:
    (choice,) = complete(client, prompt="the cat", echo=echo, energies=True)["choices"]
    *pieces, last = [
        event["choices"][0] for event in events(client, prompt="the cat", echo=echo, energies=True)
    ]
    assert len(pieces) > 1
    assert "".join(piece["text"] for piece in pieces) == choice["text"]
    assert all(piece["finish_reason"] is None for piece in pieces)
    assert last == {**choice, "text": ""}
    mean = np.mean(choice["token_energies"])
    assert choice["energy_per_token"] == pytest.approx(mean, rel=1e-9)
    assert len(choice["model_energies"]) == len(choice["tokens"]) == 12


def test_several_texts_are_those_that_come_alone(client: httpx.Client) -> None:
    prompts = ["the cat", "over the river"]
    together = complete(client, prompt=prompts, n=2, stop=["moon"])["choices"]
    alone = [
        complete(client, prompt=prompt, seed=seed, stop="moon")["choices"][0]
        for prompt in prompts
        for seed in (3, 4)
    ]
    assert [choice["text"] for choice in together] == [choice["text"] for choice in alone]
    assert [choice["index"] for choice in together] == [0, 1, 2, 3]
    streamed = [event["choices"][0] for event in events(client, prompt=prompts, n=2, stop=["moon"])]
    assert streamed == together


def test_a_seed_is_drawn_and_told(client: httpx.Client) -> None:
    texts = [complete(client, prompt="the", seed=seed) for seed in (3, 3)]
    assert texts[0]["choices"] == texts[1]["choices"]
    asked = {"prompt": "the", "max_tokens": 12}
    drawn = [client.post("/v1/completions", json=asked).json()["choices"][0] for _ in range(2)]
    assert drawn[0]["seed"] != drawn[1]["seed"]
    again = complete(client, prompt="the", seed=drawn[0]["seed"])["choices"][0]
    assert again["text"] == drawn[0]["text"]


def test_latents_and_energies_are_those_of_the_model(
    client: httpx.Client, run: LoadedRun, numba_device: KernelDevice
) -> None:
    embedder = TextEmbedder(run.model, run.tokenizer, numba_device, run.config.data.eval_context)
    texts = ["the cat", "a dog ran"]
    answer = client.post("/v1/embeddings", json={"input": texts}).json()
    found = [row["embedding"] for row in answer["data"]]
    np.testing.assert_allclose(found, embedder.embed(texts).direction, rtol=0, atol=0)
    energies = client.post("/v1/energies", json={"input": texts[0]}).json()
    own = embedder.energies(texts[0])
    assert "".join(energies["texts"]) == texts[0]
    for name in ("energy", "latent", "surprise"):
        assert energies[name] == getattr(own, name).tolist()


def test_it_says_what_it_serves(client: httpx.Client, run: LoadedRun) -> None:
    health = client.get("/health").json()
    assert health["status"] == "ok"
    assert (health["family"], health["step"]) == ("splat", run.step)
    assert health["parameters"] == run.model.n_parameters()
    assert [model["id"] for model in client.get("/v1/models").json()["data"]] == [health["model"]]
    assert "/v1/completions" in client.get("/openapi.json").json()["paths"]


@pytest.mark.parametrize(
    ("path", "asked", "status", "message"),
    [
        ("completions", {}, 400, "prompt: Field required"),
        ("completions", {"prompt": 5}, 400, "prompt: Input should be a valid string"),
        ("completions", {"prompt": "a", "beams": 2}, 400, "beams: Extra inputs are not permitted"),
        ("completions", {"prompt": "a", "max_tokens": "9"}, 400, "max_tokens: Input should be a"),
        ("completions", {"prompt": "a", "max_tokens": 0}, 400, "max_tokens=0 must be at least 1"),
        ("completions", {"prompt": "a", "top_p": 2}, 400, "top_p=2.0 must be above 0"),
        ("completions", {"prompt": "a", "n": 0}, 400, "num_samples=0 must be at least 1"),
        ("completions", {"prompt": "a", "stop": [""]}, 400, "a stop string is empty"),
        ("completions", {"prompt": ["a", "the " * 99]}, 400, "prompt 1 has "),
        ("completions", {"prompt": "a\ud800"}, 400, "lone surrogate U+D800"),
        ("completions", {"prompt": "a", "model": "gpt"}, 404, "model 'gpt' is not served here"),
        ("energies", {"input": ""}, 400, "the text has 0 tokens"),
        ("embeddings", {"input": ["a", None]}, 400, "input: Input should be a valid string"),
    ],
)  # fmt: skip
def test_bad_requests_are_told_why(
    client: httpx.Client, path: str, asked: dict, status: int, message: str
) -> None:
    for stream in ({}, {"stream": True}) if path == "completions" else ({},):
        content = json.dumps({**asked, **stream})
        headers = {"content-type": "application/json"}
        answer = client.post(f"/v1/{path}", content=content, headers=headers)
        assert answer.status_code == status
        assert message in answer.json()["error"]["message"]
        assert "\n" not in answer.json()["error"]["message"]


def test_what_is_no_json_is_told_so(client: httpx.Client) -> None:
    headers = {"content-type": "application/json"}
    answer = client.post("/v1/completions", content='{"prompt": ', headers=headers)
    assert answer.status_code == 400
    assert "JSON" in answer.json()["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_work_ends_with_its_client(client: httpx.Client, stream: bool) -> None:
    asked = {"prompt": "the", "max_tokens": ENDLESS, "stream": stream}
    if stream:
        with client.stream("POST", "/v1/completions", json=asked) as answer:
            assert next(answer.iter_lines()).startswith("data: ")
    else:
        with pytest.raises(httpx.ReadTimeout):
            client.post("/v1/completions", json=asked, timeout=0.5)
    # The model does one thing at a time: an answer means that it has given up the other.
    assert complete(client, prompt="the")["choices"][0]["text"]


def test_more_requests_than_may_wait_are_told_to_come_back(
    run: LoadedRun, numba_device: KernelDevice
) -> None:
    with serving(run, numba_device, most_waiting=1) as client:
        asked = {"prompt": "the", "max_tokens": ENDLESS, "stream": True}
        with client.stream("POST", "/v1/completions", json=asked) as answer:
            assert next(answer.iter_lines()).startswith("data: ")
            refused = client.post("/v1/completions", json={"prompt": "the"})
            assert refused.status_code == 503
            assert "1 requests wait already" in refused.json()["error"]["message"]
        answered = 503
        while answered == 503:
            time.sleep(0.05)
            asked = {"prompt": "the", "max_tokens": 2}
            answered = client.post("/v1/completions", json=asked).status_code
        assert answered == 200


def test_models_without_splats_have_no_latents(splatless: Path, numba_device: KernelDevice) -> None:
    with serving(load_run(splatless, numba_device), numba_device) as client:
        assert complete(client, prompt="the")["choices"][0]["text"]
        for path in ("embeddings", "energies"):
            answer = client.post(f"/v1/{path}", json={"input": "the"})
            assert answer.status_code == 400
            assert "has no splats" in answer.json()["error"]["message"]


def test_the_command_serves_until_it_is_interrupted(trained: tuple[Path, Result]) -> None:
    words = ["--checkpoint", str(trained[0]), "--port", "0", "--device", "numba"]
    command = [sys.executable, "-c", "from ebm_wgpu.cli import main; main()", "serve", *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        address = line.split(" at ")[1].split(",")[0]
        # It listens before it says so.
        answer = httpx.post(
            f"{address}/v1/completions", json={"prompt": "the", "max_tokens": 3}, timeout=60
        )
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
    assert answer.status_code == 200
    assert process.returncode == 0, rest
    assert "Traceback" not in rest


def test_a_port_in_use_is_one_line(trained: tuple[Path, Result]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = ebm(
            *("serve", "--checkpoint", trained[0], "--device", "numba", "--port", port),
        )
    one_line_error(result, f"cannot listen at 127.0.0.1 port {port}")


def test_a_missing_package_is_named(
    trained: tuple[Path, Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    result = ebm("serve", "--checkpoint", trained[0], "--device", "numba")
    one_line_error(result, r'not installed \(uvicorn\): pip install "ebm-wgpu\[serve\]"')
