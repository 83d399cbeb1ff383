"""
Clustering over time of very long videos: what it takes, and how near it comes to exact clustering.

    python benchmarks/long_clustering.py                        # time and memory to 100,000 frames, then quality
    python benchmarks/long_clustering.py --widths 16384 --quality-frames ""

Quality is measured on planted events, against exact DPC-KNN on the same frames: `found`, the share of the events that
have a centre of their own (of as many as there are centres), and the adjusted Rand index of the labels (1 is the same
division). Two other ways stand beside it: exact clustering after a noise of a thousandth (how firm its own result is),
and exact clustering of 2048 evenly spaced frames.
"""

import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from measuring import GIB, HostMemory, Report, clock, growth_exponent, in_child, peak_tensor_bytes

from dynfocus.selecting.clustering import dpc_knn, medoids, merge_tokens
from dynfocus.selecting.distances import cross_distances
from dynfocus.selecting.segmented_clustering import segmented_dpc_knn

NUM_EVENTS, NEIGHBORS = 25, 5
GOAL_FRAMES, GOAL_WIDTH, GOAL_SECONDS, GOAL_BYTES = 100_000, 2048, 60, 2e9
KINDS = ("even", "unequal", "still", "repeats", "flashes")


def planted_events(kind: str, num_frames: int, num_events: int, generator: torch.Generator) -> torch.Tensor:
    """The event of each frame, `(num_frames,)`.

    kind: "even" stretches; "unequal" ones; all but a tenth of the video is one "still" event; events come again and
    again, in short visits ("repeats"); half of them are "flashes" of two frames, each at 40 places.
    """
    if kind == "repeats":
        visits = torch.randint(3, 30, (num_frames // 3,), generator=generator)
        return torch.randint(num_events, visits.shape, generator=generator).repeat_interleave(visits)[:num_frames]
    weights = torch.ones(num_events)
    if kind == "unequal":
        weights = torch.rand(num_events, generator=generator) ** 4 + 0.002
    elif kind == "still":
        weights[num_events // 2] = 9 * num_events
    elif kind == "flashes":
        weights[num_events // 2 :] = 1e-9
    ends = (weights.cumsum(0) / weights.sum() * num_frames).long()
    events = torch.searchsorted(ends, torch.arange(num_frames), right=True).clamp(max=num_events - 1)
    if kind == "flashes":
        for event in range(num_events // 2, num_events):
            for place in torch.randint(num_frames - 2, (40,), generator=generator).tolist():
                events[place : place + 2] = event
    return events


def adjusted_rand_index(first: torch.Tensor, second: torch.Tensor) -> float:
    """How alike two divisions `(n,)` are: 1 for the same, about 0 for unrelated ones."""
    table = torch.zeros(int(first.max()) + 1, int(second.max()) + 1, dtype=torch.float64)
    table.index_put_((first, second), torch.ones(len(first), dtype=torch.float64), accumulate=True)
    both, ours, theirs, all_ = (
        (counts * (counts - 1) / 2).sum() for counts in (table, table.sum(1), table.sum(0), table.sum().reshape(1))
    )
    expected, most = ours * theirs / all_, (ours + theirs) / 2
    return 1.0 if most == expected else float((both - expected) / (most - expected))


def quality(kind: str, num_frames: int, num_events: int, noise: float, seed: int, width: int = 256) -> list[float]:
    """Found by exact, segmented and spaced clustering; index against exact of: noisy exact, segmented, spaced."""
    generator = torch.Generator().manual_seed(seed)
    event = planted_events(kind, num_frames, num_events, generator)
    tokens = torch.randn(num_events, width, generator=generator)[event]
    tokens += noise * torch.randn(tokens.shape, generator=generator)
    exact = dpc_knn(tokens[None], NUM_EVENTS, num_neighbors=NEIGHBORS)
    moved = tokens + 1e-3 * torch.randn(tokens.shape, generator=generator)
    noisy = dpc_knn(moved[None], NUM_EVENTS, num_neighbors=NEIGHBORS).labels[0]
    labels, centers = segmented_dpc_knn(tokens, NUM_EVENTS, num_neighbors=NEIGHBORS)
    spaced = torch.arange(2048) * num_frames // 2048
    spaced_centers = spaced[dpc_knn(tokens[spaced][None], NUM_EVENTS, num_neighbors=NEIGHBORS).centers[0]]
    spaced_labels = cross_distances(tokens, tokens[spaced_centers], tokens.mean(0)).argmin(1)

    def found(of: torch.Tensor) -> float:
        return len(event[of].unique()) / min(NUM_EVENTS, len(event.unique()))

    against_exact = (adjusted_rand_index(other, exact.labels[0]) for other in (noisy, labels, spaced_labels))
    return [found(exact.centers[0]), found(centers), found(spaced_centers), *against_exact]


def cost(num_frames: int, width: int, threads: int) -> dict[str, Any]:
    """Seconds of clustering, of means and medoids, and of a core for both; bytes of the frames, and at peak."""
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    event = planted_events("repeats", num_frames, 40, generator)
    means = torch.randn(40, width, generator=generator)
    tokens = torch.empty(num_frames, width)
    for part, chosen in zip(tokens.split(4096), event.split(4096), strict=True):
        torch.randn(part.shape, generator=generator, out=part).mul_(0.3).add_(means[chosen])
    found: dict[str, Any] = {"frames": num_frames, "width": width, "bytes": tokens.nbytes}
    with HostMemory() as memory:
        start, core = clock(), time.process_time()
        labels, _ = segmented_dpc_knn(tokens, NUM_EVENTS, num_neighbors=NEIGHBORS)
        found["seconds"] = clock() - start
        merge_tokens(tokens[None], labels[None], NUM_EVENTS)
        medoids(tokens[None], labels[None], num_clusters=NUM_EVENTS)
        found["core_seconds"] = time.process_time() - core
        found["merge_seconds"] = clock() - start - found["seconds"]
    found["resident"] = memory.above
    if num_frames <= 20_000:
        found["live"] = peak_tensor_bytes(lambda: segmented_dpc_knn(tokens, NUM_EVENTS, num_neighbors=NEIGHBORS))
    return found


def run(frames: list[int], widths: list[int], quality_frames: list[int], seeds: int, json_file: Path | None) -> Report:
    """Measures, prints, and writes `json_file`."""
    report = Report("long_clustering", {"frames": frames, "widths": widths, "seeds": seeds})
    costs = [in_child(cost, number, width, torch.get_num_threads()) for width in widths for number in frames]
    rows = [
        (one["width"], one["frames"], f"{one['bytes'] / GIB:.2f}", f"{one['seconds']:.1f}")
        + (f"{one['merge_seconds']:.1f}", f"{one['core_seconds']:.1f}", f"{one['resident'] / GIB:.2f}")
        for one in costs
    ]
    headings = (
        "width",
        "frames",
        "features GiB",
        "clustering s",
        "means and medoids s",
        "all, core s",
        "memory above them GiB",
    )
    report.add_table("Segmented DPC-KNN, 25 events", headings, rows)
    for one in costs:
        if (one["frames"], one["width"]) == (GOAL_FRAMES, GOAL_WIDTH):
            seconds = one["seconds"] + one["merge_seconds"]
            report.add_goal(f"100,000 frames: {seconds:.0f} s (goal: {GOAL_SECONDS})", seconds <= GOAL_SECONDS)
            report.add_goal(
                f"100,000 frames: {one['resident'] / 1e9:.2f} GB above the features (goal: 2)",
                one["resident"] <= GOAL_BYTES,
            )
    if len(frames) > 1:
        for width in widths:
            seconds = [one["seconds"] for one in costs if one["width"] == width]
            report.results[f"growth {width}"] = growth_exponent(frames, seconds)
    rows = []
    for number in quality_frames:
        for kind in KINDS:
            for events in (12, 25, 60):
                for noise in (0.1, 0.5):
                    runs = torch.tensor([quality(kind, number, events, noise, seed) for seed in range(seeds)])
                    rows.append((number, kind, events, noise, *(f"{mean:.2f}" for mean in runs.mean(0).tolist())))
    if rows:
        headings = ("frames", "kind", "events", "noise", "found: exact", "segmented", "spaced")
        headings += ("index: noisy exact", "segmented", "spaced")
        report.add_table(f"Against exact clustering, {seeds} seeds", headings, rows)
        ours = [[float(cell) for cell in row[4:]] for row in rows]
        report.results["mean"] = torch.tensor(ours).mean(0).tolist()
    report.results["costs"] = costs
    report.finish(json_file)
    return report


def main(
    frames: Annotated[
        str, typer.Option(help="Numbers of frames whose cost is measured, with commas.")
    ] = "10000,30000,100000",
    widths: Annotated[str, typer.Option(help="Features of a frame, g² times the tower's width.")] = "2048",
    quality_frames: Annotated[str, typer.Option(help="Numbers of frames of the comparison with exact.")] = "5000,8000",
    seeds: Annotated[int, typer.Option(min=1, help="Videos of each kind.")] = 2,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the results there too.")] = None,
) -> None:
    """Cost and quality of clustering over segments of time."""
    numbers, sizes, compared = ([int(n) for n in text.split(",") if n] for text in (frames, widths, quality_frames))
    run(numbers, sizes, compared, seeds, json_file)


if __name__ == "__main__":
    typer.run(main)
