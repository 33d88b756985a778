"""The one limits table: what a request, a file, a recipe may be at most.

Every number that bounds outside input is a field here, is published in the reference
documentation from here, and is enforced before the work it bounds.
"""

from dataclasses import dataclass, fields


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Upper bounds on outside input. Each field's unit is in its name."""

    json_body_bytes: int = 32 * 2**20
    """Body of a JSON request; large enough for a few inline images."""
    json_depth: int = 64
    """Nesting of arrays and objects in a JSON body."""
    json_values: int = 2**18
    """Values in a JSON body, counted by its commas and opening brackets."""
    json_number_digits: int = 400
    """Digits of one number in a JSON body."""
    upload_bytes: int = 512 * 2**20
    """One uploaded file."""
    file_name_chars: int = 255
    """Characters of a stored file name."""
    page_items: int = 100
    """Items of one page of a listing."""
    messages: int = 2_048
    """Messages of one chat request or one training row."""
    prompt_chars: int = 4 * 2**20
    """Characters of one prompt or conversation, before tokenisation."""
    template_chars: int = 1 * 2**20
    """Characters of a model's chat template."""
    rendered_chars: int = 8 * 2**20
    """Characters that a chat template may make of a conversation."""
    template_s: int = 2
    """Seconds that compiling or rendering a chat template may take."""
    template_bytes: int = 512 * 2**20
    """Memory that compiling or rendering a chat template may take."""
    stop_sequences: int = 4
    """Stop strings of one request."""
    stop_chars: int = 256
    """Characters of one stop string."""
    top_logprobs: int = 20
    """Alternatives reported for each token."""
    request_choices: int = 128
    """Answers of one request: its prompts times `n`."""
    biased_tokens: int = 1_024
    """Entries of one `logit_bias`."""
    tools: int = 128
    """Functions of one request."""
    tools_chars: int = 256 * 2**10
    """Characters of the definitions of all functions of one request, without blanks."""
    tool_calls: int = 128
    """Calls of one message of a conversation."""
    answer_calls: int = 16
    """Calls that an answer which must call may make."""
    schema_chars: int = 64 * 2**10
    """Characters of one JSON schema, without blanks, or of all texts of one choice."""
    literal_chars: int = 4_096
    """Characters of a name or value that a schema gives, or of one text of a choice."""
    output_choices: int = 1_000
    """Texts of one choice."""
    regex_chars: int = 4_096
    """Characters of one regular expression, in a schema too."""
    regex_positions: int = 4_096
    """Characters that a regular expression has once its counted repetitions are written out."""
    grammar_s: int = 2
    """Seconds that compiling a schema or regular expression may take."""
    grammar_bytes: int = 512 * 2**20
    """Memory that compiling a schema or regular expression may take."""
    classify_inputs: int = 256
    """Inputs of one classify request."""
    embedding_inputs: int = 2_048
    """Texts to embed, documents to rank, or pairs to score of one request."""
    embedding_text_tokens: int = 8_192
    """Tokens of one text to embed, or of one pair to score; a model may allow fewer."""
    embedding_tokens: int = 300_000
    """Tokens of all texts of one embeddings, rerank or score request."""
    questions: int = 400
    """Questions of one decisions request."""
    choices: int = 1_000
    """Choices of one question."""
    image_bytes: int = 16 * 2**20
    """One encoded image."""
    conversation_image_bytes: int = 32 * 2**20
    """All encoded images of one conversation."""
    image_pixels: int = 40_000_000
    """Width times height of one image, checked from its header before decoding."""
    request_pixels: int = 160_000_000
    """Width times height of all images that are decoded for one request to a model."""
    decode_s: int = 10
    """Seconds that decoding one image or recording may take."""
    request_decode_s: int = 30
    """Seconds that decoding all images, or recordings, of one request to a model may take."""
    decode_bytes: int = 1 * 2**30
    """Memory that decoding one image or recording may take."""
    audio_bytes: int = 32 * 2**20
    """One encoded recording."""
    audio_s: int = 7_200
    """Seconds of one recording, checked from its header before decoding."""
    audio_channels: int = 8
    """Channels of one recording."""
    audio_rate_hz: int = 192_000
    """Sampling rate of one recording; at least 4,000."""
    audio_samples: int = 2**25
    """Samples, of all channels, that are decoded of one recording at one time."""
    url_chars: int = 4_096
    """Characters of an address that is fetched."""
    request_urls: int = 16
    """Addresses that are fetched for one request."""
    redirects: int = 3
    """Redirects of one fetch, each checked like the first address."""
    fetch_s: int = 10
    """Seconds of one fetch, redirects included."""
    running_fetches: int = 16
    """Addresses that one server fetches at one time."""
    pulled_bytes: int = 512 * 2**30
    """All files of one model that is pulled from the hub."""
    running_pulls: int = 4
    """Models, and datasets of each kind of source, that one server pulls at one time."""
    listed_objects: int = 100_000
    """Objects of a store under one folder that is pulled."""
    archive_entries: int = 200_000
    """Entries of one uploaded zip."""
    archive_bytes: int = 4 * 2**30
    """Bytes of all entries of a zip after inflation."""
    archive_ratio: int = 200
    """Inflated over stored size of one zip entry."""
    dataset_bytes: int = 16 * 2**30
    """Memory that preparing one dataset may take; at most three quarters of the machine's."""
    row_bytes: int = 1 * 2**20
    """One row of a data file."""
    dataset_rows: int = 5_000_000
    """Rows of one dataset."""
    dataset_columns: int = 10_000
    """Columns of one data file."""
    feedback_chars: int = 64 * 2**10
    """Characters of an input, an output or a correction that feedback tells of."""
    feedback_rows: int = 10_000
    """Pieces of feedback that one dataset version takes."""
    labels: int = 10_000
    """Classes of one classifier."""
    min_training_rows: int = 10
    """Fewest rows a training file may have."""
    batch_size: int = 65_536
    """Rows of one optimizer step."""
    epochs: int = 10_000
    """Passes over the training split."""
    max_steps: int = 10_000_000
    """Optimizer steps of one run."""
    sequence_tokens: int = 131_072
    """Tokens of one training sequence."""
    new_parameters: int = 1_000_000_000
    """Parameters of a built-in architecture built anew; training holds 16 bytes for each."""
    new_layers: int = 512
    """Layers of a decoder built anew."""
    lora_rank: int = 1_024
    """Rank of a LoRA adapter."""
    ranks: int = 256
    """Processes of one training run."""
    explanation_forwards: int = 4_096
    """Forward passes of one explanation."""
    idempotency_key_chars: int = 255
    """Characters of an `Idempotency-Key`."""
    metadata_pairs: int = 16
    """Entries of a metadata object."""
    sweep_fields: int = 16
    """Recipe fields that one sweep searches."""
    sweep_values: int = 100
    """Values that are listed for one field of a sweep."""
    sweep_trials: int = 500
    """Trials of one sweep."""
    sweep_parallel: int = 64
    """Trials of one sweep that have not ended."""
    queued_jobs: int = 1_000
    """Unfinished jobs of one project."""
    queued_requests: int = 1_024
    """Requests one engine holds, running and waiting."""
    queued_tokens: int = 4 * 2**20
    """Prompt tokens and possible output tokens of all requests that one engine holds."""
    owed_usage_rows: int = 10_000
    """Usage rows that a full disk may keep waiting before requests to models are refused."""
    upstream_event_bytes: int = 8 * 2**20
    """One event of a stream that another server sends."""
    upstream_answer_bytes: int = 64 * 2**20
    """One whole answer of another server."""
    upstream_tokens: int = 16 * 2**20
    """Tokens of one request that another server may claim; what claims more is not believed."""
    loading_requests: int = 128
    """Requests that wait for one model to load."""
    waiting_models: int = 64
    """Models that wait for room in memory at one time."""
    deployments: int = 1_000
    """Deployments of one project."""
    profiles: int = 32
    """Profiles of one deployment."""
    running_explanations: int = 64
    """Explanations that one server computes at one time, those it has answered 202 included."""


LIMITS = Limits()


def rows() -> list[tuple[str, int]]:
    """List name and value of every limit, in the order of the table."""
    return [(field.name, getattr(LIMITS, field.name)) for field in fields(Limits)]
