# /// script
# requires-python = ">=3.11"
# dependencies = ["dynfocus[train]", "trl>=1.16"]
# ///
"""
Fine-tune a pretrained video language model with TRL's `SFTTrainer`, on frames that DynFocus chooses for each question.

A `.jsonl` or `.csv` file has one question a row: the columns `video`, `question` and `answer`, where a video is a path
relative to that file.

    python examples/finetune_stock_trl.py questions.csv --model Qwen/Qwen3-VL-4B-Instruct --out finetuned

Adapters on the language model learn. `finetuned` is an adapter of PEFT, which loads on the stock model:

    PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained("Qwen/Qwen3-VL-4B-Instruct"), "finetuned")
"""

import argparse
from pathlib import Path

import torch
from datasets import load_dataset
from transformers import AutoModelForImageTextToText
from trl import SFTConfig, SFTTrainer

from dynfocus.adoption.focus_collator import FocusCollator
from dynfocus.adoption.focus_processor import FocusProcessor
from dynfocus.training.parts import lora_config


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a .jsonl or .csv file")
    parser.add_argument("--model", required=True, help="Hub id or folder of a stock video language model")
    parser.add_argument("--dual-encoder", help="what looks at the frames (default: google/siglip2-base-patch16-224)")
    parser.add_argument("--max-visual-tokens", type=int, default=4096)
    parser.add_argument("--out", default="finetuned", help="folder of the adapter")
    parser.add_argument("--steps", type=int, default=-1, help="training steps (default: one epoch)")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--workers", type=int, default=2, help="processes that decode videos")
    args = parser.parse_args(argv)

    on_gpu = torch.cuda.is_available()
    model = AutoModelForImageTextToText.from_pretrained(args.model, dtype="bfloat16" if on_gpu else "float32")
    processor = FocusProcessor.from_pretrained(
        args.model, config=model.config, dual_encoder=args.dual_encoder, max_visual_tokens=args.max_visual_tokens
    )
    collator = FocusCollator(processor, media_root=args.data.parent, states=Path(args.out) / "videos")
    rows = load_dataset("csv" if args.data.suffix == ".csv" else "json", data_files=str(args.data), split="train")
    # Looks at every video once, and chooses frames for every question: the workers need no dual encoder.
    rows = rows.map(collator.choose, load_from_cache_file=False)
    # And its memory is free for training.
    released = FocusProcessor.from_pretrained(args.model, config=model.config, **processor.settings)
    collator = FocusCollator(released, media_root=args.data.parent)
    settings = SFTConfig(
        output_dir=args.out,
        max_steps=args.steps,
        num_train_epochs=1,
        per_device_train_batch_size=args.batch_size,
        learning_rate=args.learning_rate,
        # TRL's default, which a CPU cannot have.
        bf16=on_gpu,
        dataloader_num_workers=args.workers,
        logging_steps=5,
        report_to="none",
        # The collator reads videos and writes the labels: TRL must neither tokenize the rows nor drop their columns.
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
    )
    trainer = SFTTrainer(
        model,
        settings,
        train_dataset=rows,
        data_collator=collator,
        processing_class=processor.processor,
        peft_config=lora_config(model, rank=16, alpha=32, dropout=0.05),
    )
    trainer.train()
    trainer.save_model()
    processor.save_settings(args.out)


if __name__ == "__main__":
    main()
