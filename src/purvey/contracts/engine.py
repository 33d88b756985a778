"""What an engine answers: generation, scores, classes, vectors, tokens, explanations.

The same messages travel over a Unix socket pair to an engine process and are understood by
the scripted engine of `purvey.testing`. Every request carries an id; every reply carries
the id of its request, and a reply with another id closes the connection.
"""

from collections.abc import AsyncIterator
from typing import Annotated, Literal, Protocol

import msgspec

from purvey.contracts.adapter import AdapterDropped, AdapterLoaded, DropAdapter, LoadAdapter
from purvey.contracts.chat.tools import CallDelta, Tool, ToolCall
from purvey.contracts.deployment import Device, Precision
from purvey.contracts.embedding import Embed, Embedded, Rank, Ranked
from purvey.contracts.explain import ExplanationRequest, ExplanationResult
from purvey.contracts.model import InputSpec, ModelSource, Task
from purvey.contracts.sampling import Sampling
from purvey.contracts.speech.transcription import SpeechSkills, Transcribe, TranscriptEvent


class ChatMessage(msgspec.Struct, frozen=True, kw_only=True):
    """One turn of a conversation; content is plain text, never special tokens.

    `tool_calls` and `reasoning` are an assistant's; `tool_call_id` says which call a tool answers.
    """

    role: Literal["system", "user", "assistant", "tool"]
    content: str
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    reasoning: str | None = None


class TextInput(msgspec.Struct, frozen=True, kw_only=True, tag="text_input"):
    """Text for a one-pass model."""

    text: str


class ImageInput(msgspec.Struct, frozen=True, kw_only=True, tag="image_input"):
    """An encoded image (PNG, JPEG, WebP, GIF's first frame, BMP) for a one-pass model."""

    data: bytes


class NumberInput(msgspec.Struct, frozen=True, kw_only=True, tag="number_input"):
    """A finite number for a one-pass model."""

    value: float


class AudioInput(msgspec.Struct, frozen=True, kw_only=True, tag="audio_input"):
    """An encoded recording (WAV, FLAC, OGG, MP3) for a one-pass model."""

    data: bytes


PlainInput = TextInput | ImageInput | NumberInput | AudioInput
NamedInputs = dict[str, PlainInput]
"""Input by the name that the model's `inputs` declare; a single one is named `input`."""


class ChatPrompt(msgspec.Struct, frozen=True, kw_only=True, tag="chat"):
    """A conversation, rendered by the model's chat template.

    `tools` are given to the template; `enable_thinking` too, where it is not None. `images` stand
    in front of the conversation, for a model that sees.
    """

    messages: tuple[ChatMessage, ...]
    tools: tuple[Tool, ...] = ()
    enable_thinking: bool | None = None
    images: tuple[ImageInput, ...] = ()


class TextPrompt(msgspec.Struct, frozen=True, kw_only=True, tag="text"):
    """Plain text to be continued. The tokenizer's begin token is added where it has one."""

    text: str


class TokenPrompt(msgspec.Struct, frozen=True, kw_only=True, tag="tokens"):
    """Token ids, taken as they are."""

    tokens: tuple[int, ...]


Prompt = ChatPrompt | TextPrompt | TokenPrompt


class LoadModel(msgspec.Struct, frozen=True, kw_only=True, tag="load"):
    """First frame to an engine process: what to load and what it may use.

    `precision` is what a language model is computed in; other models compute in float32.
    `kept_folder` holds weights as they are computed with, at most `kept_bytes` of them, so that a
    second load is quick; "" keeps none. `adapter_bytes` is what its adapters may take together; 0
    serves none. `failpoints` is a plan of `purvey.failpoints`, empty but in tests.
    """

    source: ModelSource
    num_threads: int
    kv_cache_bytes: int
    max_batch_tokens: int
    precision: Precision = "auto"
    device: Device = "auto"
    batch_window_s: float = 0.002
    prefix_cache: bool = True
    adapter_bytes: int = 2**28
    kept_folder: str = ""
    kept_bytes: int = 0
    failpoints: str = ""


class Generate(msgspec.Struct, frozen=True, kw_only=True, tag="generate"):
    """Continue a prompt. Answered by `Started`, `Delta`s, then `Finished` (or `Refused`).

    Args:
        request_id: Unique among the requests of the engine.
        prompt: What is continued.
        sampling: How tokens are chosen.
        salt: The project; what one leaves in the cache is never found by another, and each has
            its fair share of the engine.
        priority: 1 is admitted before 0, and -1 after it; waiting raises it.
        deadline_s: Seconds within which computing must have begun, else it is refused.
        adapter: Digest of the adapter that computes, "" for the base alone; one that is not loaded
            is refused with `adapter_not_loaded`: load it and ask again.
    """

    request_id: str
    prompt: Prompt
    sampling: Sampling
    salt: str = ""
    priority: Annotated[int, msgspec.Meta(ge=-1, le=1)] = 0
    deadline_s: Annotated[float, msgspec.Meta(ge=0)] | None = None
    adapter: str = ""


class Score(msgspec.Struct, frozen=True, kw_only=True, tag="score"):
    """Log-probabilities of given outputs after each prompt. Answered by `Scored`.

    Each pair is (prompt, output); low priority: it never delays a decoding step by more than
    one batch. `salt` is the project, and `adapter` what computes, as for `Generate`.
    """

    request_id: str
    pairs: tuple[tuple[Prompt, TextPrompt | TokenPrompt], ...]
    salt: str = ""
    adapter: str = ""


class Classify(msgspec.Struct, frozen=True, kw_only=True, tag="classify"):
    """Class probabilities, or scores, of one or many inputs. Answered by `Classified`."""

    request_id: str
    inputs: tuple[NamedInputs, ...]


class Tokenize(msgspec.Struct, frozen=True, kw_only=True, tag="tokenize"):
    """Token ids of a prompt, by the adapter's chat template. Answered by `Tokenized`."""

    request_id: str
    prompt: Prompt
    adapter: str = ""


class Explain(msgspec.Struct, frozen=True, kw_only=True, tag="explain"):
    """Attribute an output to parts of the input. Answered by `Explained`."""

    request_id: str
    request: ExplanationRequest
    adapter: str = ""


class Cancel(msgspec.Struct, frozen=True, kw_only=True, tag="cancel"):
    """Forget a request within one step and free what it holds. Not answered."""

    request_id: str


class Drain(msgspec.Struct, frozen=True, kw_only=True, tag="drain"):
    """Take nothing new, finish what runs, then exit with status 0."""


OneQuestion = Score | Classify | Embed | Rank | Tokenize | Explain
"""What is answered once, by its own kind."""
Question = Generate | Transcribe | OneQuestion | LoadAdapter | DropAdapter
"""What is answered."""
ToEngine = LoadModel | Question | Cancel | Drain


ComputePath = Literal["native", "transformers"]
"""Our own networks, or the slower ones of `transformers`: for what ours do not know."""


class ModelLoaded(msgspec.Struct, frozen=True, kw_only=True, tag="loaded"):
    """The model is ready.

    Args:
        task: What it is for.
        labels: Class names in order; empty for text generation.
        inputs: Input by name, for one-pass models; the image of one that sees.
        context_tokens: Longest prompt plus output, or text; 0 for classifiers.
        vector_size: Numbers of an uncut vector; 0 where there are none.
        has_chat_template: Whether it takes conversations.
        num_parameters: Weights, tied ones counted once.
        resident_bytes: Memory the process holds for weights and caches.
        weights_bytes: Of it, weights as they are computed with; 0 where that is not told.
        workspace_bytes: What one step may take beside it; 0 where that is not told.
        precision: `float32` and so on, as computed.
        path: What computes it.
        is_calibrated: Whether probabilities were fitted on validation rows.
        similarity_scale: Of images beside texts: what makes logits of cosines; 0 elsewhere.
        speech: Of a recogniser: what it can do.
    """

    task: Task
    labels: tuple[str, ...] = ()
    inputs: dict[str, InputSpec] = {}
    context_tokens: int = 0
    vector_size: int = 0
    has_chat_template: bool = False
    num_parameters: int = 0
    resident_bytes: int = 0
    weights_bytes: int = 0
    workspace_bytes: int = 0
    precision: str = "float32"
    path: ComputePath = "native"
    is_calibrated: bool = False
    similarity_scale: float = 0.0
    speech: SpeechSkills = SpeechSkills()


class Waiting(msgspec.Struct, frozen=True, kw_only=True, tag="waiting"):
    """First word of a spare process: it has everything but a model, and waits for `LoadModel`."""


class LoadFailed(msgspec.Struct, frozen=True, kw_only=True, tag="load_failed"):
    """The model cannot be served; `code` is that of a `PurveyError`."""

    code: str
    message: str


class TokenLogprob(msgspec.Struct, frozen=True, kw_only=True):
    """One token with its natural log-probability under the untempered model."""

    token_id: int
    text: str
    """The token's own text; bytes that are no full character show as U+FFFD."""
    data: bytes
    """The token's bytes."""
    logprob: float
    alternatives: tuple["TokenLogprob", ...] = ()


class Started(msgspec.Struct, frozen=True, kw_only=True, tag="started"):
    """The prompt is admitted; `cached_tokens` of it were known from earlier ones."""

    request_id: str
    prompt_tokens: int
    cached_tokens: int = 0


class Delta(msgspec.Struct, frozen=True, kw_only=True, tag="delta"):
    """New output, whole characters only; may be empty beside log-probabilities.

    What a model thinks and calls in answer to a conversation is told apart from `text`; in one
    delta, reasoning comes before text, and text before calls. An echoed prompt comes first, as one
    delta of 0 `num_tokens`; its `tokens` are the prompt's, the first with log-probability 0.
    """

    request_id: str
    text: str
    num_tokens: int = 1
    tokens: tuple[TokenLogprob, ...] = ()
    reasoning: str = ""
    calls: tuple[CallDelta, ...] = ()


class Finished(msgspec.Struct, frozen=True, kw_only=True, tag="finished"):
    """Generation is over; all blocks are free again. Reasoning is part of the completion."""

    request_id: str
    reason: Literal["stop", "length", "cancelled"]
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int = 0


class Scored(msgspec.Struct, frozen=True, kw_only=True, tag="scored"):
    """Natural log-probability of every output token, per pair."""

    request_id: str
    logprobs: tuple[tuple[float, ...], ...]
    prompt_tokens: int


class Classified(msgspec.Struct, frozen=True, kw_only=True, tag="classified"):
    """For each input its probabilities in label order, which sum to 1; or a regression's score."""

    request_id: str
    probabilities: tuple[tuple[float, ...], ...] = ()
    scores: tuple[float, ...] = ()
    compute_s: float = 0.0


class Tokenized(msgspec.Struct, frozen=True, kw_only=True, tag="tokenized"):
    """Token ids and, aligned, each token's text; before them come `num_pictured` of images."""

    request_id: str
    tokens: tuple[int, ...]
    texts: tuple[str, ...]
    num_pictured: int = 0


class Explained(msgspec.Struct, frozen=True, kw_only=True, tag="explained"):
    """A finished explanation."""

    request_id: str
    result: ExplanationResult


class Refused(msgspec.Struct, frozen=True, kw_only=True, tag="refused"):
    """The request ended in an error; `code` is that of a `PurveyError`."""

    request_id: str
    code: str
    message: str
    param: str | None = None


class EngineStats(msgspec.Struct, frozen=True, kw_only=True, tag="stats"):
    """Sent once a second and after each drain: what the engine holds.

    Args:
        running: Requests that are computed.
        waiting: Requests that are not.
        free_blocks: Cache blocks that nobody holds.
        total_blocks: Cache blocks there are.
        steps: Steps since it started.
        layers: Layers computed since it started, where they are counted: of a step that takes
            minutes they tell that it goes on.
        preemptions: Requests that gave their blocks back to go on later, since it started.
        prefix_queried_tokens: Prompt tokens of all requests that were begun.
        prefix_hit_tokens: How many of these the cache knew.
        adapters: Digests of those that requests may name, in order.
    """

    running: int
    waiting: int
    free_blocks: int
    total_blocks: int
    steps: int
    layers: int = 0
    preemptions: int = 0
    prefix_queried_tokens: int = 0
    prefix_hit_tokens: int = 0
    adapters: tuple[str, ...] = ()


GenerationEvent = Started | Delta | Finished
OneAnswer = (
    Scored | Classified | Embedded | Ranked | Tokenized | Explained | AdapterLoaded | AdapterDropped
)
Answer = GenerationEvent | TranscriptEvent | OneAnswer | Refused
"""What carries the id of its request."""
FromEngine = Waiting | ModelLoaded | LoadFailed | Answer | EngineStats


class EngineClient(Protocol):
    """One loaded model, as the control plane sees it. Implementations pass one contract suite.

    Every method raises the `PurveyError` named by a `Refused` reply, and
    `WorkerCrashedError` when the process dies meanwhile.
    """

    @property
    def model(self) -> ModelLoaded:
        """What was loaded."""
        ...

    @property
    def stats(self) -> EngineStats | None:
        """The newest statistics, if any came yet."""
        ...

    @property
    def is_alive(self) -> bool:
        """Whether it still answers; once false, it stays so."""
        ...

    def generate(self, request: Generate) -> AsyncIterator[GenerationEvent]:
        """Stream one generation; closing the iterator early cancels the request."""
        ...

    async def score(self, request: Score) -> Scored:
        """Return log-probabilities of given outputs."""
        ...

    async def classify(self, request: Classify) -> Classified:
        """Return class probabilities, or a regression's scores."""
        ...

    def transcribe(self, request: Transcribe) -> AsyncIterator[TranscriptEvent]:
        """Stream what a recording says; closing the iterator early cancels the request."""
        ...

    async def embed(self, request: Embed) -> Embedded:
        """Return vectors of texts."""
        ...

    async def rank(self, request: Rank) -> Ranked:
        """Return how well the texts of pairs fit."""
        ...

    async def tokenize(self, request: Tokenize) -> Tokenized:
        """Return token ids."""
        ...

    async def explain(self, request: Explain) -> Explained:
        """Return an attribution with its faithfulness."""
        ...

    async def load_adapter(self, request: LoadAdapter) -> AdapterLoaded:
        """Make an adapter ready; concurrent calls for one of them load it once."""
        ...

    async def drop_adapter(self, request: DropAdapter) -> AdapterDropped:
        """Forget an adapter, once nothing computes with it."""
        ...

    async def close(self, *, timeout_s: float) -> None:
        """Drain, then end the process; kill it when the time has passed."""
        ...


class EngineLauncher(Protocol):
    """Starts engines; local processes first, a cluster later."""

    async def launch(self, load: LoadModel) -> EngineClient:
        """Start an engine and wait until its model is loaded.

        Raises:
            PurveyError: The error of `LoadFailed`, or `WorkerCrashedError`.
        """
        ...
