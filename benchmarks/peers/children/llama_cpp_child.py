"""llama.cpp through its C interface: `llama_cpp_child.py MODEL THREADS`, then JSON lines.

Prompts are decoded in one batch, then every sequence steps together. The best logit is found by
numpy, which is faster than the library's own greedy sampler.
"""

import ctypes
import sys
import time

import llama_cpp as ll
import numpy as np
from lines import serve

MAX_SEQUENCES, POSITIONS = 16, 1_024


class Model:
    """A loaded model with one context for up to 16 sequences of 1,024 positions."""

    def __init__(self, path: str, threads: int) -> None:
        ll.llama_backend_init()
        self._model = ll.llama_model_load_from_file(path.encode(), ll.llama_model_default_params())
        wanted = ll.llama_context_default_params()
        wanted.n_ctx = POSITIONS * MAX_SEQUENCES
        wanted.n_seq_max = MAX_SEQUENCES
        wanted.n_batch, wanted.n_ubatch = 4_096, 512
        wanted.n_threads = wanted.n_threads_batch = threads
        wanted.kv_unified = False
        self._context = ll.llama_init_from_model(self._model, wanted)
        self._memory = ll.llama_get_memory(self._context)
        self._vocabulary = ll.llama_vocab_n_tokens(ll.llama_model_get_vocab(self._model))
        self._batch = ll.llama_batch_init(4_096, 0, 1)

    def answer(self, *, prompts, max_tokens, logits=False):
        """Continue each prompt greedily; every step's moment is in seconds from the call."""
        ll.llama_memory_clear(self._memory, ctypes.c_bool(1))
        start = time.perf_counter()
        rows = [
            (token, position, sequence, position == len(prompt) - 1)
            for sequence, prompt in enumerate(prompts)
            for position, token in enumerate(prompt)
        ]
        self._decode(rows)
        lasts = [i for i, row in enumerate(rows) if row[3]]
        scores = [self._scores(i) for i in lasts]
        tokens = [[int(one.argmax())] for one in scores]
        moments = [time.perf_counter() - start]
        kept = [one.tolist() for one in scores] if logits else None
        for step in range(1, max_tokens):
            self._decode(
                [
                    (tokens[i][-1], len(prompt) + step - 1, i, True)
                    for i, prompt in enumerate(prompts)
                ]
            )
            for i in range(len(prompts)):
                tokens[i].append(int(self._scores(i).argmax()))
            moments.append(time.perf_counter() - start)
        return {"tokens": tokens, "moments_s": moments, "logits": kept}

    def _decode(self, rows: list[tuple[int, int, int, bool]]) -> None:
        batch = self._batch
        batch.n_tokens = len(rows)
        for i, (token, position, sequence, is_wanted) in enumerate(rows):
            batch.token[i], batch.pos[i] = token, position
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, sequence
            batch.logits[i] = is_wanted
        status = ll.llama_decode(self._context, batch)
        assert status == 0, f"llama_decode returned {status}"

    def _scores(self, row: int):
        pointer = ll.llama_get_logits_ith(self._context, row)
        address = ctypes.cast(pointer, ctypes.POINTER(ctypes.c_float))
        return np.ctypeslib.as_array(address, shape=(self._vocabulary,)).copy()


if __name__ == "__main__":
    serve(Model(sys.argv[1], int(sys.argv[2])).answer)
