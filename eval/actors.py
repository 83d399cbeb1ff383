"""
The actors of a batch: processes of a Ray cluster, on this machine or on many, that hold the model and answer videos.

They are plain actors of Ray, each of which works on one video at a time, instead of Ray Data's operators. Ray Data
starts a task again without end if its worker dies (so that one video that crashes a decoder would stop the batch for
ever), and its own tasks need processors beside the actors, without which it waits in silence. Here a worker's death
is that of a known video, which is tried twice more and then gets an error.
"""

import importlib
import os
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .batch import Asking, Video

#: Seconds until an actor must have a place; loading the model is not counted.
PLACING_SECONDS = 120.0
_TRIES = 3
_CPUS_PER_ACTOR = 4
_WAKE_SECONDS = 0.5
_LONGEST_REASON = 400
# Ray's least, in bytes: only names and answers are sent.
_OBJECT_STORE = 80 * 2**20


@dataclass(frozen=True)
class Places:
    """
    How many actors there are, and what each one reserves.

    Args:
        actors, cpus (`int`): number of actors, and the processors of each, which are its threads.
        gpus (`float`): GPUs of each; a part of one is shared.
    """

    actors: int
    cpus: int
    gpus: float = 0.0


def plan_places(
    nodes: Sequence[Mapping[str, float]], actors: int | None, gpus_per_actor: float | None, use_gpus: bool = True
) -> Places:
    """
    Share the machines of a cluster among actors. By default there is an actor for each GPU; without GPUs, one for four
    processors, at least one.

    Args:
        nodes: number of `"CPU"` and `"GPU"` of each machine.
        actors, gpus_per_actor: in place of the defaults.
        use_gpus: `False` if the model is on the processors.

    Raises:
        `ValueError`: there is no room for so many actors.
    """
    count = sum(node.get("GPU", 0) for node in nodes)
    if gpus_per_actor is not None and not (0 < gpus_per_actor <= 1 or gpus_per_actor in range(1, 1 << 16)):
        raise ValueError(f"--gpus-per-actor {gpus_per_actor:g}: must be a part of one GPU, or a whole number of them.")
    if gpus_per_actor is not None and (not use_gpus or count < gpus_per_actor):
        raise ValueError(f"--gpus-per-actor {gpus_per_actor:g}: there are {count:g} GPUs for this; leave it out.")
    gpus = (gpus_per_actor or 1.0) if use_gpus and count else 0.0

    def room(cpus: int) -> int:
        return sum(
            min([int(node.get("CPU", 0) // cpus), *([_shares(node.get("GPU", 0), gpus)] if gpus else [])])
            for node in nodes
        )

    most = room(1)
    if actors is None:
        actors = max(1, most if gpus else sum(int(node.get("CPU", 0) // _CPUS_PER_ACTOR) for node in nodes))
    if actors > most:
        parts = "a processor" + (f" and {gpus:g} GPU" if gpus else "")
        raise ValueError(f"There is room for {most} actors, and {actors} are wanted; each one needs {parts}.")
    cpus = max(cpus for cpus in range(1, 1 + int(max(node.get("CPU", 0) for node in nodes))) if room(cpus) >= actors)
    return Places(actors, cpus, gpus)


def _shares(count: float, part: float) -> int:
    # As Ray does, whose smallest part is 1/10000.
    return round(count * 10_000) // round(part * 10_000)


class Answering:
    """An actor. It is made without the model, so that a lack of places is told from a model that loads slowly."""

    def place(self) -> str:
        """The name of its machine, as soon as it runs."""
        return socket.gethostname()

    def load(self, load: Callable[[], Any], asking: "Asking", threads: int | None) -> dict[str, Any]:
        """Loads the model; returns its record. `threads` is `None` where the user has set their number."""
        import torch

        from .batch import model_record

        if threads is not None:
            torch.set_num_threads(threads)
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        self.video_qa, self.asking = load().video_qa, asking
        return model_record(self.video_qa, asking)

    def answer(self, video: "Video", state_file: str | None) -> list[dict[str, Any]]:
        from .batch import answer_video

        return answer_video(self.video_qa, video, self.asking, state_file)


class Cluster:
    """
    Ray, started on this machine or joined; at the end of a `with` block, what was started is stopped.

    Args:
        address (`str`, *optional*): `"auto"` or `HOST:PORT` of a running cluster.
        verbose: whether Ray's messages are printed.

    Raises:
        `ImportError`: Ray is not installed. `ValueError`: there is no such cluster.
    """

    def __init__(self, address: str | None = None, verbose: bool = False):
        try:
            self.ray = importlib.import_module("ray")
        except ImportError:
            raise ImportError('Batches need Ray: pip install "dynfocus[ray]".') from None
        if address is not None and address != "auto":
            _check_address(address)
        self.address, self.verbose = address, verbose

    def __enter__(self) -> "Cluster":
        options: dict[str, Any] = {"address": self.address or "local", "log_to_driver": self.verbose}
        if self.address is None:
            # What is started here sends no statistics anywhere, and has no page.
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            options |= {"include_dashboard": False, "object_store_memory": _OBJECT_STORE}
        if not self.verbose:
            options |= {"logging_level": "CRITICAL"}
        try:
            self.ray.init(**options)
        except Exception as error:  # Ray has no class of its own for a start that takes too long
            self.ray.shutdown()
            if self.address is None:
                raise ValueError(f"Ray cannot be started here: {_in_words(error)}") from error
            raise ValueError(
                f"--address {self.address}: no Ray cluster can be joined there ({_in_words(error)}); start one with "
                "`ray start --head`, or leave --address out; for one that asks for a token, set RAY_AUTH_MODE=token."
            ) from error
        return self

    def __exit__(self, *_: object) -> None:
        self.ray.shutdown()

    def nodes(self) -> list[dict[str, float]]:
        """`"CPU"` and `"GPU"` of each machine."""
        return [node["Resources"] for node in self.ray.nodes() if node["Alive"]]

    def answers(
        self,
        videos: Sequence["Video"],
        places: Places,
        load: Callable[[], Any],
        asking: "Asking",
        *,
        state_file: Callable[["Video"], str | None],
        on_record: Callable[[Mapping[str, Any]], None],
        on_wait: Callable[[str], None],
    ) -> Iterator[tuple["Video", list[dict[str, Any]]]]:
        """
        Yields each video with its rows, as soon as they are finished.

        A video whose actor dies or raises something unexpected is tried again by a new one, and gets an error after
        three times.

        Args:
            load: returns the `video-qa` pipeline; called in each actor.
            on_record: called with the record of each actor's model.
            on_wait: called twice a second, with what is waited for.

        Raises:
            `ValueError`: no actor gets a place in two minutes; the model cannot be loaded; the first three videos
                that were finished all had ended their actors.
            [`StopBatch`]: see `answer_video`.
        """
        from .batch import StopBatch

        ray = self.ray
        kind = ray.remote(Answering).options(num_cpus=places.cpus, num_gpus=places.gpus, max_restarts=0)
        waiting, tries = deque(videos), Counter[int]()
        jobs: dict[Any, tuple[Any, Any]] = {}
        loaded = finished = given_up = failed_loads = 0
        threads = None if "OMP_NUM_THREADS" in os.environ else places.cpus
        deadline: float | None = None

        def start() -> None:
            actor = kind.remote()
            jobs[actor.place.remote()] = actor, "place"

        try:
            for _ in range(min(places.actors, len(waiting))):
                start()
            while waiting or any(step not in ("place", "load") for _, step in jobs.values()):
                steps = {step for _, step in jobs.values() if isinstance(step, str)}
                on_wait("videos" if loaded else "the model" if "load" in steps else "a place in the cluster")
                if all(step == "place" for _, step in jobs.values()):
                    deadline = deadline or time.monotonic() + PLACING_SECONDS
                    if time.monotonic() > deadline:
                        raise ValueError(self._no_place(places))
                else:
                    deadline = None
                done, _ = ray.wait(list(jobs), timeout=_WAKE_SECONDS)
                if not done:
                    continue
                actor, step = jobs.pop(done[0])
                try:
                    result = ray.get(done[0])
                except ray.exceptions.RayError as error:
                    # A new process, as this one is dead or in an unknown state.
                    ray.kill(actor)
                    cause = getattr(error, "cause", None)
                    if isinstance(cause, StopBatch):
                        raise cause from None
                    if isinstance(step, str):
                        failed_loads += 1
                        is_hopeless = failed_loads >= _TRIES * places.actors or cause is not None
                        if is_hopeless and not loaded:
                            raise ValueError(_not_loaded(cause)) from error
                        if is_hopeless:
                            continue
                    else:
                        tries[step.number] += 1
                        if tries[step.number] < _TRIES:
                            waiting.appendleft(step)
                        else:
                            given_up += 1
                            yield step, _crashed(step, cause)
                            if given_up >= _TRIES and not finished:
                                raise ValueError(
                                    f"The first {_TRIES} videos all ended the processes that worked on them "
                                    f"({_reason(cause)}): try one with `dynfocus ask --verbose`."
                                ) from error
                    if waiting:
                        start()
                    continue
                if step == "place":
                    jobs[actor.load.remote(load, asking, threads)] = actor, "load"
                    continue
                if step == "load":
                    on_record(result)
                    loaded += 1
                else:
                    finished += 1
                    yield step, result
                if waiting:
                    video = waiting.popleft()
                    jobs[actor.answer.remote(video, state_file(video))] = actor, video
                else:
                    ray.kill(actor)
        finally:
            for actor, _ in jobs.values():
                ray.kill(actor)

    def _no_place(self, places: Places) -> str:
        free = self.ray.available_resources()
        parts = [f"{places.cpus} processors ({free.get('CPU', 0):g} are free)"]
        if places.gpus:
            parts.append(f"{places.gpus:g} GPU ({free.get('GPU', 0):g} are free)")
        return (
            f"No actor found a place in {PLACING_SECONDS:.0f} s: it needs {' and '.join(parts)}; wait until others "
            "are finished, or set --actors and --gpus-per-actor."
        )


def _check_address(address: str) -> None:
    """Raises a `ValueError` if nothing listens there: Ray itself would wait for a minute, then end the process."""
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdecimal():
        raise ValueError(f"--address {address}: must be auto, or HOST:PORT of a cluster, such as 10.0.0.1:6379.")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise ValueError(f"--address {address}: no Ray cluster can be reached there ({_in_words(error)}).") from error


def _crashed(video: "Video", cause: BaseException | None) -> list[dict[str, Any]]:
    from .batch import failed_row

    error = f"The process that worked on this video ended {_TRIES} times ({_reason(cause)})."
    return [failed_row(video, question, error) for question in video.questions]


def _not_loaded(cause: BaseException | None) -> str:
    if cause is None:
        return f"The processes that load the model ended {_TRIES} times ({_reason(cause)})."
    # Sentences for users come as they are.
    known = isinstance(cause, (ValueError, OSError, ImportError)) or type(cause).__name__ == "UserError"
    return _in_words(cause) if known else f"The model cannot be loaded: {_reason(cause)}."


def _reason(cause: BaseException | None) -> str:
    return "a crash, or out of memory" if cause is None else f"{type(cause).__name__}: {_in_words(cause)}"


def _in_words(error: BaseException) -> str:
    return " ".join(str(error).split())[:_LONGEST_REASON] or type(error).__name__


__all__ = ["PLACING_SECONDS", "Answering", "Cluster", "Places", "plan_places"]
