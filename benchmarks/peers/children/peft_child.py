"""PEFT's mixed batch: `peft_child.py FOLDER THREADS DTYPE ADAPTER...`, then JSON lines."""

import sys
import time

import torch
from lines import serve
from peft import PeftModel
from transformers import AutoModelForCausalLM


class Model:
    """The base with its adapters."""

    def __init__(self, folder: str, threads: int, dtype: str, adapters: list[str]) -> None:
        torch.set_num_threads(threads)
        base = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
        self._model = PeftModel.from_pretrained(base, adapters[0], adapter_name="0").eval()
        for number, one in enumerate(adapters[1:], 1):
            self._model.load_adapter(one, adapter_name=str(number))

    @torch.inference_mode()
    def answer(self, *, prompts, max_tokens, adapters):
        """Continue each prompt greedily with its adapter; -1 is the base alone."""
        ids = torch.tensor(prompts)
        start, moments = time.perf_counter(), []

        def note(input_ids, scores, **_):
            moments.append(time.perf_counter() - start)
            return torch.zeros(input_ids.shape[0], dtype=torch.bool)

        out = self._model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            adapter_names=["__base__" if one < 0 else str(one) for one in adapters],
            max_new_tokens=max_tokens,
            min_new_tokens=max_tokens,
            do_sample=False,
            pad_token_id=0,
            stopping_criteria=[note],  # called after each step; it never stops
        )
        return {"tokens": out[:, ids.shape[1] :].tolist(), "moments_s": moments}


if __name__ == "__main__":
    serve(Model(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4:]).answer)
