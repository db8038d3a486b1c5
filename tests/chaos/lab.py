"""Does faults to studies, one after the other, and makes a row of each: what it was, when it struck, what it cost."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.bad_disk import BadDisk, build
from tests.chaos.driving import MAX_RESUMES, Blow, Broken, Over, Run
from tests.chaos.far_nodes import FarNodes
from tests.chaos.faults import Fault, Scene, files_below, mounted, unmount
from tests.chaos.judging import Cost, judge, mlflow_runs
from tests.chaos.nodes import Nodes
from tests.chaos.ray_faults import RayFault
from tests.chaos.studies import ChaosStudy, Where
from tests.cluster.networks import why_not
from tests.mlflow_log.server import MlflowServer
from tune.core.journal import Entry

AT_LEAST_EVENTS = 3  # before a fault strikes
ENDS_WITHIN_S = {"process": 120.0, "ray": 150.0, "nodes": 150.0, "nodes and Redis": 150.0, "networks": 150.0}
SMALL_MB = 4
_CLUSTERS: dict[Where, Callable[[], Nodes]] = {
    "nodes": lambda: Nodes(2),
    "nodes and Redis": lambda: Nodes(2, with_redis=True),
    "networks": lambda: FarNodes(2),
}


@dataclass(frozen=True)
class Row:
    """`cost` is None where a promise without a figure was broken, which `note` tells of; or where the fault could not be done."""

    fault: str
    study: str
    at_event: int
    cost: Cost | None
    note: str = ""
    skipped: bool = False

    @property
    def kept(self) -> bool:
        return self.skipped or (self.cost is not None and self.cost.kept)


class Lab:
    """`folder` holds the studies; `say` hears of each row as it comes. Undisturbed studies are run once each."""

    def __init__(self, folder: Path, seed: int, say: Callable[[Row], None] = lambda row: None):
        self._folder, self._rng, self._say = folder, random.Random(seed), say
        self._whole: dict[str, list[Entry]] = {}
        self._library = build(folder)
        self._n = 0

    def one_process(self, study: ChaosStudy, fault: Fault) -> Row:
        """A study in the foreground that meets one fault."""
        whole = self._undisturbed(study)
        with self._scene(study, ("--foreground",), fault.needs) as (scene, store, why):
            if scene is None:
                return self._row(Row(fault.name, study.name, 0, None, why, skipped=True))
            at_event = self._rng.randint(AT_LEAST_EVENTS, len(whole) - 6)
            blow: Blow | None = None
            try:
                limit = files_below(sum(map(len, self.lines(study)[:at_event])) + 20) if fault.needs == "file_limit" else None
                scene.run.start(before_exec=limit)
                if fault.needs != "file_limit":
                    scene.run.until(at_event)
                blow = fault.strike(scene)
                scene.run.to_the_end(ENDS_WITHIN_S[study.where])
                return self._row(self._judged(study, fault.name, scene, blow, store))
            except (Broken, AssertionError) as error:
                return self._row(Row(fault.name, study.name, len(blow.before) if blow else at_event, None, str(error)))

    def on_ray(self, study: ChaosStudy, faults: Sequence[RayFault]) -> list[Row]:
        """A study on a Ray of its own, or on several nodes, that meets these faults in their order."""
        if why := _why_no_cluster(study):
            return [self._row(Row(fault.name, study.name, 0, None, f"not run: {why}", skipped=True)) for fault in faults]
        if study.ordered:
            self._undisturbed(study)
        with ExitStack() as stack:
            nodes = stack.enter_context(_CLUSTERS[study.where]()) if study.where in _CLUSTERS else None
            words = ("--address", nodes.address) if nodes is not None else ()
            environment = None if nodes is None else nodes.environment
            scene, store, why = stack.enter_context(self._scene(study, words, "disk", environment))
            if scene is None:
                return [self._row(Row(fault.name, study.name, 0, None, why, skipped=True)) for fault in faults]
            struck: list[tuple[str, Blow]] = []
            now = ""
            try:
                scene.run.start()
                for fault in faults:
                    now = fault.name
                    blow = self._struck(fault, scene, nodes)
                    if blow is not None:
                        struck.append((fault.name, blow))
                        continue
                    note = "not run: the study was over before"
                    self._row(Row(fault.name, study.name, scene.run.n_events(), None, note, skipped=True))
                now = ""
                scene.run.to_the_end(ENDS_WITHIN_S[study.where])
            except (Broken, AssertionError) as error:
                name = now or faults[-1].name
                others = [
                    Row(of, study.name, len(b.before), None, f"not judged: see {name}", skipped=True) for of, b in struck if of != name
                ]
                return [self._row(row) for row in (*others, Row(name, study.name, scene.run.n_events(), None, str(error)))]
            lengths = [len(blow.before) for _, blow in struck[1:]] + [None]
            return [
                self._row(self._judged(study, name, scene, blow, store, upto)) for (name, blow), upto in zip(struck, lengths, strict=True)
            ]

    def lines(self, study: ChaosStudy) -> list[str]:
        """The journal of the undisturbed study."""
        self._undisturbed(study)
        path = self._folder / f"{study.name}-undisturbed" / "studies" / f"{study.name}-1" / "journal.jsonl"
        return path.read_text().splitlines(keepends=True)

    # -- helpers ---------------------------------------------------------------------------------------------------------------

    def _struck(self, fault: RayFault, scene: Scene, nodes: Nodes | None) -> Blow | None:
        """None: the study was over before. A driver that has ended for want of its Ray, after the fault before, is resumed."""
        for _ in range(MAX_RESUMES):
            if not scene.run.alive:
                scene.run.start()
            with suppress(Over):
                if scene.run.until(scene.run.n_events() + self._rng.randint(8, 16)):
                    return fault.strike(scene, nodes)
            if scene.run.wait(30) == 0:
                return None
        raise Broken(f"{MAX_RESUMES} resumes did not bring it to where this fault could strike: {scene.run.said()[-1500:]}")

    def _row(self, row: Row) -> Row:
        self._say(row)
        return row

    def _judged(self, study: ChaosStudy, name: str, scene: Scene, blow: Blow, store: str, upto: int | None = None) -> Row:
        if "events behind" in scene.run.said():  # MLflow was away when the study ended: the next resume tells it
            scene.run.start()
            if scene.run.wait(ENDS_WITHIN_S[study.where]) != 0:
                raise Broken(f"a resume of a done study failed: {scene.run.said()[-800:]}")
        cost = judge(study, scene.run.entries(), self._whole.get(study.name, ()), blow, mlflow_runs(store, study.name), upto)
        return Row(name, study.name, len(blow.before), cost, blow.seen or cost.first_change[:400])

    def _undisturbed(self, study: ChaosStudy) -> list[Entry]:
        if study.name not in self._whole:
            words = ("--foreground",) if study.where == "process" else ()
            run = Run(self._folder / f"{study.name}-undisturbed", study.name, study.text, words)
            try:
                run.start()
                run.to_the_end(ENDS_WITHIN_S[study.where])
                self._whole[study.name] = run.entries()
            finally:
                run.clean_up()
        return self._whole[study.name]

    @contextmanager
    def _scene(
        self, study: ChaosStudy, words: tuple[str, ...], needs: str, environment: dict[str, str] | None = None
    ) -> Iterator[tuple[Scene | None, str, str]]:
        """A new study of this text, not begun; where MLflow keeps its runs; or why it cannot be made here."""
        self._n += 1
        folder = self._folder / f"{self._n:02d}-{study.name}"
        with ExitStack() as stack:
            if needs == "mount":
                if not mounted(folder, SMALL_MB):
                    yield None, "", "not run: only root can mount a small file system"
                    return
                stack.callback(unmount, folder)
            run = Run(folder, study.name, study.text, words, environment)
            store, scene = f"sqlite:///{run.storage}/mlflow.db", Scene(run, self._rng)
            if needs == "disk":
                if self._library is None:
                    yield None, "", "not run: no C compiler"
                    return
                scene.disk = BadDisk(self._library, run.study_dir, self._folder / f"{self._n:02d}-order")
                run.environment |= scene.disk.environment
            if needs == "server":
                (folder / "server").mkdir()
                scene.server = stack.enter_context(MlflowServer(folder / "server"))
                run.words += ("--tracking-uri", scene.server.uri)
                store = scene.server.backend_uri
            stack.callback(run.clean_up)
            yield scene, store, ""


def _why_no_cluster(study: ChaosStudy) -> str:
    """Why the cluster of this study cannot be made here; "" if it can, or needs none."""
    if study.where == "nodes and Redis" and shutil.which("redis-server") is None:
        return "no redis-server"
    return why_not() if study.where == "networks" else ""
