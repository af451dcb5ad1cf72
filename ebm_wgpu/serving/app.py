"""The HTTP application: what is asked, done by the model's thread, answered as JSON or events."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse

from ebm_wgpu import __version__
from ebm_wgpu.embedding import TextEmbedder
from ebm_wgpu.errors import EbmError
from ebm_wgpu.generation.batch import GeneratedText, generate_texts
from ebm_wgpu.kernels import KernelDevice
from ebm_wgpu.serving.jobs import BusyError, Job, JobQueue
from ebm_wgpu.serving.requests import CompletionRequest, EmbeddingRequest, EnergyRequest
from ebm_wgpu.training.loading import LoadedRun

T = TypeVar("T")

_KINDS = ("str", "list[str]")

_NOBODY = 499
"""Status of an answer that its client did not wait for, as nginx writes it down."""


def create_app(
    run: LoadedRun, device: KernelDevice, *, batch_size: int = 16, most_waiting: int = 64
) -> FastAPI:
    """An application that writes with a run's model.

    `GET /health` and `/v1/models` say what is served. `POST /v1/completions` writes as `ebm sample`
    does: with the same seed and options, the same text. `POST /v1/embeddings` and `/v1/energies`
    are `ebm embed`, for models made of splats. Bad input gets status 400, a model of another name
    404, and too much work 503, each with {"error": {"message", "type"}}. The model does one request
    at a time; one whose client has gone is given up at the next token.

    Args:
        run: what to serve.
        device: runs the kernels.
        batch_size: continuations of a request written side by side.
        most_waiting: requests that may be under way or wait.
    """
    jobs = JobQueue(most_waiting)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await jobs.close()

    app = FastAPI(title="ebm-wgpu", version=__version__, lifespan=lifespan)
    name = run.run.path.resolve().name
    _add_errors(app)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        """That it runs, and what."""
        return {
            "status": "ok",
            "model": name,
            "family": run.config.model.family,
            "step": run.step,
            "parameters": run.model.n_parameters(),
            "device": device.description,
        }

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The model, in a list."""
        return {"object": "list", "data": [{"id": name, "object": "model", "owned_by": "ebm-wgpu"}]}

    @app.post("/v1/completions", response_model=None)
    async def completions(asked: CompletionRequest, request: Request) -> Response:
        """Texts that go on from prompts."""
        _check_name(asked.model, name)
        live = asked.stream and asked.alone
        job: Job[str | GeneratedText] = Job()
        # What is wrong with a request is found here, before any answer; the writing comes later.
        texts = generate_texts(
            run.model,
            run.tokenizer,
            asked.prompts(),
            asked.settings(run.config.sampler.latent),
            run.config.data.eval_context,
            asked.plan(batch_size),
            job.put if live else None,
            lambda count: job.check(),
        )

        def work() -> None:
            for text in texts:
                job.put(text)

        jobs.start(job, work)
        frame = _Frame(name, asked)
        if asked.stream:
            return StreamingResponse(frame.events(job), media_type="text/event-stream")
        return await _answer(job, request, frame.whole)

    @app.post("/v1/embeddings", response_model=None)
    async def embeddings(asked: EmbeddingRequest, request: Request) -> Response:
        """The directions of the latents after texts, (d,) each, of length 1."""
        _check_name(asked.model, name)
        embedder, texts = _embedder(run, device), asked.texts()
        job: Job[dict[str, Any]] = Job()

        def work() -> None:
            latents = embedder.embed(texts, lambda count: job.check())
            count = int(latents.tokens_read.sum())
            job.put(
                {
                    "object": "list",
                    "model": name,
                    "data": [
                        {"object": "embedding", "index": index, "embedding": row.tolist()}
                        for index, row in enumerate(latents.direction)
                    ],
                    "usage": {"prompt_tokens": count, "total_tokens": count},
                }
            )

        jobs.start(job, work)
        return await _answer(job, request, lambda results: results[0])

    @app.post("/v1/energies", response_model=None)
    async def energies(asked: EnergyRequest, request: Request) -> Response:
        """E(e_w|c), -log p(e_w|c) and -log p(w|c) of each token of a text, nats."""
        _check_name(asked.model, name)
        embedder = _embedder(run, device)
        job: Job[dict[str, Any]] = Job()

        def work() -> None:
            found = embedder.energies(asked.input)
            job.put(
                {
                    "object": "energies",
                    "model": name,
                    "texts": list(found.pieces),
                    "tokens": found.tokens.tolist(),
                    "energy": found.energy.tolist(),
                    "latent": found.latent.tolist(),
                    "surprise": found.surprise.tolist(),
                }
            )

        jobs.start(job, work)
        return await _answer(job, request, lambda results: results[0])

    return app


class _UnknownModelError(Exception):
    """A client asks for a model that is not here."""


def _check_name(asked: str | None, name: str) -> None:
    if asked is not None and asked != name:
        raise _UnknownModelError(f"model {asked!r} is not served here: ask for {name!r}")


def _embedder(run: LoadedRun, device: KernelDevice) -> TextEmbedder:
    return TextEmbedder(run.model, run.tokenizer, device, run.config.data.eval_context)


def _add_errors(app: FastAPI) -> None:
    """Answer each kind of error by its status and one line."""

    def answer(status: int, kind: str) -> Any:
        async def handler(request: Request, error: Exception) -> JSONResponse:
            return JSONResponse(_error(str(error), kind), status)

        return handler

    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        # Between the names stand the kinds of value that were tried.
        names = [str(part) for part in first["loc"][1:] if part not in _KINDS]
        place = ".".join(names)
        message = f"{place}: {first['msg']}" if place else first["msg"]
        return JSONResponse(_error(message, "invalid_request_error"), 400)

    app.add_exception_handler(EbmError, answer(400, "invalid_request_error"))
    app.add_exception_handler(RequestValidationError, invalid)  # type: ignore[arg-type]
    app.add_exception_handler(_UnknownModelError, answer(404, "not_found_error"))
    app.add_exception_handler(BusyError, answer(503, "overloaded_error"))


def _error(message: str, kind: str) -> dict[str, Any]:
    return {"error": {"message": " ".join(message.split()), "type": kind}}


async def _answer(job: Job[T], request: Request, whole: Any) -> Response:
    """`whole` of the results of a job as JSON, unless the client goes away before."""

    async def collect() -> list[T]:
        return [result async for result in job.results()]

    async def leave() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    results, gone = asyncio.ensure_future(collect()), asyncio.ensure_future(leave())
    try:
        await asyncio.wait({results, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not results.done():
            return Response(status_code=_NOBODY)
        return JSONResponse(whole(results.result()))
    finally:
        results.cancel()
        gone.cancel()


class _Frame:
    """What stands around the texts of one request."""

    def __init__(self, model: str, asked: CompletionRequest) -> None:
        self._asked = asked
        self._head = {
            "id": f"cmpl-{uuid.uuid4().hex}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": model,
        }

    def whole(self, texts: list[GeneratedText]) -> dict[str, Any]:
        """All texts at once, and how many tokens were kept."""
        choices = [self._choice(index, text) for index, text in enumerate(texts)]
        return {
            **self._head,
            "choices": choices,
            "usage": {"completion_tokens": sum(len(text.tokens) for text in texts)},
        }

    async def events(self, job: Job[str | GeneratedText]) -> AsyncIterator[str]:
        """Server-sent events: pieces or texts as they come, and [DONE]."""
        index, told = 0, False
        try:
            async with contextlib.aclosing(job.results()) as results:
                async for result in results:
                    if isinstance(result, GeneratedText):
                        choice = self._choice(index, result)
                        # Its pieces have been sent, if there were any.
                        choice |= {"text": ""} if told else {}
                        index += 1
                    else:
                        start = self._asked.prompts()[0].text if self._asked.echo else ""
                        text = result if told else start + result
                        choice = {"index": index, "text": text, "finish_reason": None}
                        told = True
                    yield _event({**self._head, "choices": [choice]})
        except EbmError as error:
            yield _event(_error(str(error), "server_error"))
        yield "data: [DONE]\n\n"

    def _choice(self, index: int, text: GeneratedText) -> dict[str, Any]:
        choice: dict[str, Any] = {
            "index": index,
            "text": text.whole if self._asked.echo else text.text,
            "finish_reason": text.reason,
            "seed": text.seed,
            "energy_per_token": text.energy,
        }
        if text.energies is not None:
            choice["tokens"] = list(text.tokens)
            choice["token_energies"] = list(text.energies.tokens)
            own = text.energies.model
            choice["model_energies"] = None if own is None else list(own)
        return choice


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content)}\n\n"
