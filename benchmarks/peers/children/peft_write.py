"""Write a random adapter: `peft_write.py FOLDER OUT RANK SEED`. Both its factors are non-zero."""

import sys

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

if __name__ == "__main__":
    folder, out, rank, seed = sys.argv[1:]
    torch.manual_seed(int(seed))
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    config = LoraConfig(
        r=int(rank),
        lora_alpha=2 * int(rank),
        target_modules="all-linear",
        task_type="CAUSAL_LM",
        init_lora_weights=False,
    )
    get_peft_model(base, config).save_pretrained(out)
