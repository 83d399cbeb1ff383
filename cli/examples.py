"""Example commands for the help."""

# typer joins the lines of a paragraph, so each example is a separate paragraph.
EXAMPLES = """[bold]Examples[/bold]

dynfocus ask lecture.mp4 "When does she draw the second graph?" --model Qwen/Qwen3-VL-4B-Instruct

dynfocus find lecture.mp4 "a hand draws a curve" --top 5

dynfocus eval video_mme --videos Video-MME/videos --model Qwen/Qwen3-VL-4B-Instruct"""

ASK_EXAMPLES = """[bold]Examples[/bold]

dynfocus ask holiday.mp4 "What is on the beach?" --model Qwen/Qwen3-VL-4B-Instruct

dynfocus ask lecture.mp4 "Who speaks first?" --model Qwen/Qwen3-VL-4B-Instruct --plot timeline.png

dynfocus ask lecture.safetensors "When does she draw?" --model Qwen/Qwen3-VL-4B-Instruct"""

FIND_EXAMPLES = """[bold]Examples[/bold]

dynfocus find lecture.mp4 "a hand draws a curve" --top 5 --clips moments

dynfocus find lecture.safetensors "a red car" --dual-encoder open_clip:MobileCLIP2-S0/dfndr2b"""

CHAT_EXAMPLES = """[bold]Examples[/bold]

dynfocus chat holiday.mp4 --model Qwen/Qwen3-VL-4B-Instruct

dynfocus chat holiday.mp4 --model Qwen/Qwen3-VL-4B-Instruct < questions.txt"""

SERVE_EXAMPLES = """[bold]Examples[/bold]

dynfocus serve Qwen/Qwen3-VL-4B-Instruct --dtype bfloat16

dynfocus serve user/my-dynfocus --port 8080 --allow-files videos/

DYNFOCUS_API_KEY=… dynfocus serve user/my-dynfocus --host 0.0.0.0"""

DEMO_EXAMPLES = """[bold]Examples[/bold]

dynfocus demo

dynfocus demo --model Qwen/Qwen3-VL-4B-Instruct --max-visual-tokens 4096"""

ENCODE_EXAMPLES = """[bold]Examples[/bold]

dynfocus encode lecture.mp4 -o lecture.safetensors --model Qwen/Qwen3-VL-4B-Instruct

dynfocus encode film.mkv -o film.safetensors --key-frames --max-frames 2000"""

BATCH_EXAMPLES = """[bold]Examples[/bold]

dynfocus batch questions.parquet --model Qwen/Qwen3-VL-4B-Instruct --out answers

dynfocus batch questions.csv --media-root films --model user/my-dynfocus --out answers --states --actors 2

dynfocus batch questions.parquet --model Qwen/Qwen3-VL-4B-Instruct --out answers --address auto --actors 64"""

SYNTH_EXAMPLES = """[bold]Examples[/bold]

dynfocus synth --frames 128 --videos 50 --out test-set

dynfocus eval synthetic --videos test-set"""


TRAIN_EXAMPLES = """[bold]Examples[/bold]

dynfocus train lora model.checkpoint=Qwen/Qwen3-VL-4B-Instruct data.train=train.csv data.eval=held-out.csv --check

dynfocus train lora --show > my-recipe.yaml

dynfocus train my-recipe.yaml training.output_dir=runs/first

torchrun --nproc_per_node 4 -m dynfocus.training.train my-recipe.yaml"""

EVAL_EXAMPLES = """[bold]Examples[/bold]

dynfocus eval video_mme --videos Video-MME/videos --model Qwen/Qwen3-VL-4B-Instruct

dynfocus eval video_mme --videos Video-MME/videos --model user/my-model --subtitles --limit 50 --out runs/first-look

dynfocus eval synthetic --videos test-set

torchrun --nproc_per_node 4 -m dynfocus.eval.run mlvu_dev --videos MLVU/videos --out runs/mlvu"""

COMPARE_EXAMPLES = """[bold]Examples[/bold]

dynfocus compare runs/before runs/after"""

REPORT_EXAMPLES = """[bold]Examples[/bold]

dynfocus report runs/video_mme-my-model"""

EXPORT_EXAMPLES = """[bold]Examples[/bold]

dynfocus export my-model

dynfocus export my-model --model runs/finetuned/checkpoint-400 --max-shard-size 2GB

dynfocus export my-space --space --model Qwen/Qwen3-VL-4B-Instruct"""

PUSH_EXAMPLES = """[bold]Examples[/bold]

dynfocus push user/my-model --model my-model

dynfocus push user/my-model --model runs/finetuned/checkpoint-400 --private --message "400 steps\""""


__all__ = [
    "ASK_EXAMPLES",
    "BATCH_EXAMPLES",
    "CHAT_EXAMPLES",
    "COMPARE_EXAMPLES",
    "DEMO_EXAMPLES",
    "ENCODE_EXAMPLES",
    "EVAL_EXAMPLES",
    "EXAMPLES",
    "EXPORT_EXAMPLES",
    "FIND_EXAMPLES",
    "PUSH_EXAMPLES",
    "REPORT_EXAMPLES",
    "SERVE_EXAMPLES",
    "SYNTH_EXAMPLES",
    "TRAIN_EXAMPLES",
]
