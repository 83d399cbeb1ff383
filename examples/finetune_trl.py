# /// script
# requires-python = ">=3.11"
# dependencies = ["dynfocus", "trl>=1.16"]
# ///
"""
Fine-tune DynFocus with TRL's `SFTTrainer` on videos of your own.

A `.jsonl` or `.csv` file has one question a row: the columns `video`, `question` and `answer`, where a video is a path
relative to that file. (A `.jsonl` file may hold conversations instead, in chat form or in that of LLaVA.)

    python examples/finetune_trl.py questions.jsonl --model checkpoints/dynfocus-tiny --out finetuned

The vision tower stays frozen, everything else is trained. `finetuned` then answers questions:

    pipeline("video-qa", "finetuned", trust_remote_code=True)("video.mp4", question="What happens?")
"""

import argparse
from pathlib import Path

import torch
from datasets import load_dataset
from transformers import AutoModelForImageTextToText, AutoProcessor
from trl import SFTConfig, SFTTrainer

from dynfocus import DynFocusCollator
from dynfocus.training import SelectionNoiseSchedule


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a .jsonl or .csv file")
    parser.add_argument("--model", required=True, help="a Hub id or folder")
    parser.add_argument("--out", default="finetuned", help="folder of the result")
    parser.add_argument("--steps", type=int, default=-1, help="training steps (default: one epoch)")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=2e-5)
    parser.add_argument("--workers", type=int, default=2, help="processes that decode videos")
    args = parser.parse_args(argv)

    rows = load_dataset("csv" if args.data.suffix == ".csv" else "json", data_files=str(args.data), split="train")
    processor = AutoProcessor.from_pretrained(args.model)
    model = AutoModelForImageTextToText.from_pretrained(args.model)
    settings = SFTConfig(
        output_dir=args.out,
        max_steps=args.steps,
        num_train_epochs=1,
        per_device_train_batch_size=args.batch_size,
        learning_rate=args.learning_rate,
        # TRL's default, which a CPU cannot have.
        bf16=torch.cuda.is_available(),
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
        data_collator=DynFocusCollator(processor, media_root=args.data.parent),
        processing_class=processor,
        callbacks=[SelectionNoiseSchedule()],
    )
    trainer.train()
    trainer.save_model()


if __name__ == "__main__":
    main()
