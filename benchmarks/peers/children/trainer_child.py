"""Fine-tuning by `transformers.Trainer` or by TRL: `trainer_child.py KIND OPTIONS`.

KIND is `transformers`, `trl` or `trl-padding-free`; OPTIONS is JSON: `model`, `adapter` (a folder
to start from, or null), `rows` (a file of lists of ids), `work`, `batch`, `threads`, `rate`,
`betas`, `clip_norm`. Rows are visited in order; it answers as `benchmarks/blocks.py` says.
"""

import json
import sys
from pathlib import Path

import torch
import transformers

from benchmarks.blocks import Blocks

PAD = "<pad>"


class Callback(transformers.TrainerCallback):
    """Holds the loop before each step until one is wanted; its log tells the loss."""

    def __init__(self, blocks, rows, batch) -> None:
        self._blocks, self._rows, self._batch, self._step = blocks, rows, batch, 0

    def on_step_begin(self, *_, **__) -> None:
        self._blocks.wait()

    def on_log(self, *_, logs, **__) -> None:
        if "loss" not in logs:
            return
        start = self._step * self._batch % len(self._rows)
        self._step += 1
        taken = self._rows[start : start + self._batch]
        self._blocks.done(units=sum(len(ids) - 1 for ids in taken), loss=logs["loss"])


def arguments(options) -> dict:
    """Return what both trainers are told; neither logs to, or saves, anything."""
    return {
        "output_dir": options["work"],
        "per_device_train_batch_size": options["batch"],
        "num_train_epochs": 1_000,
        "learning_rate": options["rate"],
        "adam_beta1": options["betas"][0],
        "adam_beta2": options["betas"][1],
        "weight_decay": 0.0,
        "max_grad_norm": options["clip_norm"],
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "train_sampling_strategy": "sequential",
        "bf16": False,
        "gradient_checkpointing": False,
        "use_cpu": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }


def trainer(model, rows, options, callback):
    """Return `transformers.Trainer`, whose batches are padded to their longest row."""
    told = transformers.TrainingArguments(**arguments(options), remove_unused_columns=False)
    return transformers.Trainer(
        model=model,
        args=told,
        train_dataset=[{"ids": ids} for ids in rows],
        data_collator=padded,
        callbacks=[callback],
    )


def padded(items):
    """Pad on the right."""
    longest = max(len(item["ids"]) for item in items)
    ids = torch.zeros(len(items), longest, dtype=torch.int64)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for place, item in enumerate(items):
        size = len(item["ids"])
        ids[place, :size] = labels[place, :size] = torch.tensor(item["ids"])
        mask[place, :size] = 1
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def sft_trainer(model, rows, options, callback, *, is_padding_free):
    """Return TRL's `SFTTrainer` with the loss it chooses itself, on rows that are tokens already.

    Without padding a batch is one sequence, as a packed one is, of the same rows.
    """
    import datasets
    import tokenizers
    import trl

    words = tokenizers.models.WordLevel({PAD: 0}, unk_token=PAD)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer(words), pad_token=PAD, eos_token=PAD
    )
    told = trl.SFTConfig(
        **arguments(options), max_length=None, padding_free=is_padding_free, shuffle_dataset=False
    )
    return trl.SFTTrainer(
        model=model,
        args=told,
        train_dataset=datasets.Dataset.from_dict({"input_ids": rows}),
        processing_class=tokenizer,
        callbacks=[callback],
    )


def main(kind, options) -> None:
    """Train until the input ends."""
    blocks = Blocks()
    torch.set_num_threads(options["threads"])
    rows = json.loads(Path(options["rows"]).read_text(encoding="ascii"))
    model = transformers.LlamaForCausalLM.from_pretrained(options["model"], dtype=torch.float32)
    if options["adapter"] is not None:
        import peft

        model = peft.PeftModel.from_pretrained(model, options["adapter"], is_trainable=True)
    callback = Callback(blocks, rows, options["batch"])
    if kind == "transformers":
        trainer(model, rows, options, callback).train()
    else:
        is_padding_free = kind == "trl-padding-free"
        sft_trainer(model, rows, options, callback, is_padding_free=is_padding_free).train()


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
