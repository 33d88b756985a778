"""OpenVINO GenAI: `openvino_child.py FOLDER THREADS`, then JSON lines.

The pipeline is the library's default on processors (paged attention, continuous batching). Prompts
go in as token ids, together; moments are the library's own measurements.
"""

import sys

import numpy as np
import openvino as ov
import openvino_genai as genai
from lines import serve


class Model:
    """A loaded pipeline."""

    def __init__(self, folder: str, threads: int) -> None:
        self._pipeline = genai.LLMPipeline(folder, "CPU", INFERENCE_NUM_THREADS=threads)

    def answer(self, *, prompts, max_tokens, logits=False):
        """Continue each prompt greedily; there are no logits to be had."""
        config = genai.GenerationConfig(max_new_tokens=max_tokens, ignore_eos=True, do_sample=False)
        ids = np.array(prompts, dtype=np.int64)
        asked = genai.TokenizedInputs(ov.Tensor(ids), ov.Tensor(np.ones_like(ids)))
        found = self._pipeline.generate(asked, config)
        raw = found.perf_metrics.raw_metrics
        first_s, since = raw.m_times_to_first_token[0] / 1e6, raw.m_new_token_times[0]
        moments = [first_s + (at - since) / 1e3 for at in raw.m_new_token_times]
        # Prompts that do not fit one step begin apart; then the last of them begins the count.
        return {"tokens": found.tokens, "moments_s": moments[-max_tokens:], "logits": None}


if __name__ == "__main__":
    serve(Model(sys.argv[1], int(sys.argv[2])).answer)
