"""How a batch's videos are spread over actors: places, crashes, and what stops it, with a stand-in for Ray."""

import random
from types import SimpleNamespace

import pytest

from dynfocus.eval import actors
from dynfocus.eval.actors import Cluster, Places, plan_places
from dynfocus.eval.batch import Asking, Question, StopBatch, Video

# ------------------------------------------------------------------------------------------------------------- places


@pytest.mark.parametrize(
    ("nodes", "wanted", "gpus", "places"),
    [
        ([(1, 0)], None, None, Places(1, 1)),
        ([(2, 0)], None, None, Places(1, 2)),
        ([(2, 0)], 2, None, Places(2, 1)),
        ([(16, 0)], None, None, Places(4, 4)),
        ([(8, 0), (8, 0)], 3, None, Places(3, 4)),
        ([(96, 8)], None, None, Places(8, 12, 1.0)),
        ([(96, 8)], None, 0.25, Places(32, 3, 0.25)),
        ([(96, 8)] * 8, None, 0.25, Places(256, 3, 0.25)),
        ([(64, 0), (8, 1)], None, None, Places(1, 8, 1.0)),
        ([(16, 4)], None, 2, Places(2, 8, 2)),
        ([(8, 1)], None, 0.1, Places(8, 1, 0.1)),
    ],
)
def test_places(nodes, wanted, gpus, places):
    assert plan_places([{"CPU": cpu, "GPU": gpu} for cpu, gpu in nodes], wanted, gpus) == places


def test_every_planned_actor_has_room():
    """A wrong plan would wait for a place for ever."""
    lot = random.Random(1)
    for _ in range(300):
        nodes = [{"CPU": lot.randint(1, 20), "GPU": lot.choice([0, 0, 1, 4])} for _ in range(lot.randint(1, 4))]
        gpus = lot.choice([None, 0.25, 0.3, 1]) if any(node["GPU"] for node in nodes) else None
        try:
            places = plan_places(nodes, lot.choice([None, 1, 2, 5]), gpus)
        except ValueError as error:
            assert "There is room for" in str(error)
            continue
        room = 0
        for node in nodes:
            cpus, left = node["CPU"], node["GPU"]
            while cpus >= places.cpus and left + 1e-9 >= places.gpus:
                cpus, left, room = cpus - places.cpus, left - places.gpus, room + 1
                if room >= places.actors:
                    break
        assert room >= places.actors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((3, None), "room for 2 actors, and 3 are wanted; each one needs a processor"),
        ((None, 0.5), "--gpus-per-actor 0.5: there are 0 GPUs"),
        ((None, 1.5), "--gpus-per-actor 1.5: must be a part of one GPU, or a whole number"),
    ],
)
def test_places_that_do_not_exist(options, message):
    with pytest.raises(ValueError, match=message):
        plan_places([{"CPU": 2}], *options)


def test_gpus_are_left_alone_for_a_model_on_the_cpu():
    assert plan_places([{"CPU": 8, "GPU": 1}], None, None, use_gpus=False) == Places(2, 4)


# ------------------------------------------------------------------------------------------------------------ crashes


class Died(Exception):
    cause = None


class Raised(Exception):
    def __init__(self, cause):
        self.cause = cause


class StandIn:
    """What is used of Ray. Tasks are carried out when their result is asked for."""

    exceptions = SimpleNamespace(RayError=(Died, Raised))

    def __init__(self, work, room=99, load=lambda: "record"):
        self.work, self.room, self.loads = work, room, load
        self.made = self.alive = 0
        self.lot = random.Random(3)

    def remote(self, kind):
        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=self._make))

    def _make(self):
        self.made += 1
        self.alive += 1
        actor = SimpleNamespace(dead=False, placed=self.alive <= self.room)
        for name, do in (("place", lambda: "here"), ("load", lambda *_: self.loads()), ("answer", self.work)):
            setattr(actor, name, SimpleNamespace(remote=lambda *given, do=do: self._task(actor, do, given)))
        return actor

    def _task(self, actor, do, given):
        assert not actor.dead
        return type("Task", (), {"actor": actor, "do": staticmethod(do), "given": given})()

    def wait(self, tasks, timeout):
        assert tasks
        ready = [task for task in tasks if task.actor.placed]
        return ([self.lot.choice(ready)] if ready else []), tasks

    def get(self, task):
        try:
            return task.do(*task.given)
        except (Died, Raised):
            raise
        except Exception as error:
            raise Raised(error) from error

    def kill(self, actor):
        self.alive -= not actor.dead
        actor.dead = True

    def available_resources(self):
        return {"CPU": 0.0}


def answers(stand_in, count=6, actors=2):
    videos = [Video(number, f"{number}.mp4", "", questions=[Question(number, "", "?")]) for number in range(count)]
    cluster = object.__new__(Cluster)
    cluster.ray = stand_in
    noted = []
    found = cluster.answers(
        videos,
        Places(actors, 1),
        lambda: None,
        Asking({}),
        state_file=lambda video: None,
        on_record=noted.append,
        on_wait=lambda what: None,
    )
    try:
        rows = {video.number: rows for video, rows in found}
    finally:
        assert stand_in.alive == 0, "every actor is stopped at the end"
    assert set(noted) == {"record"}
    assert sorted(rows) == list(range(count))
    return rows


def test_every_video_is_answered_once_whatever_dies():
    for seed in range(50):
        lot, asked = random.Random(seed), []

        def work(video, _, lot=lot, asked=asked):
            if asked.count(video.number) < 2 and lot.random() < 0.4:
                asked.append(video.number)
                raise Died
            return [{"error": ""}]

        rows = answers(StandIn(work), count=12, actors=lot.randint(1, 5))
        assert all(own == [{"error": ""}] for own in rows.values())


@pytest.mark.parametrize(
    ("failure", "reason"), [(Died(), "a crash, or out of memory"), (KeyError("x"), "KeyError: 'x'")]
)
def test_a_video_that_ends_three_actors_gets_an_error(failure, reason):
    asked = []

    def work(video, _):
        asked.append(video.number)
        if video.number == 4:
            raise failure
        return [{"error": ""}]

    stand_in = StandIn(work)
    rows = answers(stand_in)
    assert rows[4][0]["error"] == f"The process that worked on this video ended 3 times ({reason})."
    assert asked.count(4) == 3 and len(asked) == 8 and stand_in.made >= 4


def test_if_every_video_ends_its_actor_the_batch_stops():
    def work(video, _):
        raise Died

    with pytest.raises(ValueError, match="The first 3 videos all ended the processes"):
        answers(StandIn(work))


def test_a_full_disk_stops_the_batch():
    def work(video, _):
        raise StopBatch("No space left on device")

    with pytest.raises(StopBatch, match="No space left"):
        answers(StandIn(work))


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (ValueError("--model x: there is no such folder."), r"^--model x: there is no such folder\.$"),
        (KeyError("y"), r"The model cannot be loaded: KeyError: 'y'\."),
        (Died(), "The processes that load the model ended 3 times"),
    ],
)
def test_a_model_that_cannot_be_loaded(failure, message):
    def load():
        raise failure

    with pytest.raises(ValueError, match=message):
        answers(StandIn(None, load=load), actors=1)


def test_one_machine_that_cannot_load_the_model_leaves_the_others():
    loads = iter(["record"])

    def load():
        for found in loads:
            return found
        raise ValueError("This machine lacks the model.")

    stand_in = StandIn(lambda *_: [{"error": ""}], load=load)
    stand_in.lot = SimpleNamespace(choice=lambda ready: ready[0])  # the first one is loaded first
    answers(stand_in, actors=3)


def test_without_a_place_there_is_an_error(monkeypatch):
    monkeypatch.setattr(actors, "PLACING_SECONDS", 0.05)
    with pytest.raises(ValueError, match=r"No actor found a place in 0 s: it needs 1 processors \(0 are free\)"):
        answers(StandIn(None, room=0))


def test_actors_without_a_place_do_not_stop_the_others(monkeypatch):
    monkeypatch.setattr(actors, "PLACING_SECONDS", 0.05)
    answers(StandIn(lambda *_: [{"error": ""}], room=1), actors=4)


def test_a_ray_that_does_not_start_is_one_sentence(monkeypatch):
    """Ray raises a bare `Exception` where its start takes too long."""

    class Slow:
        def init(self, **_):
            raise Exception("The current node timed out during startup.")

        def shutdown(self):
            pass

    cluster = object.__new__(Cluster)
    cluster.ray, cluster.address, cluster.verbose = Slow(), None, False
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED", raising=False)
    with pytest.raises(ValueError, match="^Ray cannot be started here: .*timed out"):
        cluster.__enter__()
