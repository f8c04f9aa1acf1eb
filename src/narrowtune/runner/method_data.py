"""What an arm's methods read and resolve, prepared with the plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from narrowtune.anatomy import Selection
from narrowtune.data.encoding import Encoded, encode_prompt
from narrowtune.data.example import Example
from narrowtune.data.model_side import ModelSide
from narrowtune.errors import InputError, Problems
from narrowtune.evaluation import PreparedTask
from narrowtune.experiment import (
    ArmSpec,
    DriftSpec,
    EwcSpec,
    MethodSpec,
    ReplaySpec,
    Scored,
    TaskSpec,
)
from narrowtune.models.experts import block_of, width_of
from narrowtune.models.lora import Rank, adaptable
from narrowtune.models.skeleton import build_skeleton, load_config
from narrowtune.record import Experts
from narrowtune.runner.reading import DataReader

Teach = Callable[[list[Example]], list[Encoded]]
Prepare = Callable[[Scored, list[Example]], PreparedTask]


@dataclass(frozen=True)
class MethodData:
    """What the methods of an arm work with.

    Attributes:
        adapted: The parameters that adapters stand beside.
        adapters: How many numbers these adapters have.
        experts: The experts that are put beside MLPs, None where the model stays as it is.
        routers: How many numbers their routers have.
        general: Samples that are replayed, where they are of a file of their own.
        fisher: Samples that Fisher information is estimated on, likewise.
        prompts: What the base answers for `kl-anchor`.
        validation: The tasks that pick the share of `wise-ft`.
    """

    adapted: tuple[str, ...] = ()
    adapters: int = 0
    experts: Experts | None = None
    routers: int = 0
    general: tuple[Encoded, ...] = ()
    fisher: tuple[Encoded, ...] = ()
    prompts: tuple[Example, ...] = ()
    validation: tuple[PreparedTask, ...] = ()


@dataclass(frozen=True)
class MethodReader:
    """Reads for one arm after the other.

    Attributes:
        source: Model, revision and trust in its code, as `load_config` takes them.
        processing: The model's.
        reader: Of the experiment's files.
        teach: Encodes samples.
        judge: Prepares a task.
    """

    source: tuple[str, str | None, bool]
    processing: ModelSide
    reader: DataReader
    teach: Teach
    judge: Prepare

    def read(self, arm: ArmSpec, selection: Selection) -> MethodData:
        """Everything that an arm's methods need.

        What they read counts as training: no test may share its questions.

        Raises:
            InputError: All that is wrong with their files, or with what `lora` is to adapt.
        """
        method, problems = arm.method, Problems()
        adapted: tuple[str, ...] = ()
        with problems.collect("lora"):
            adapted = self._adapted(method, selection)
        experts, routers = None, 0
        with problems.collect("moe"):
            experts, routers = self._experts(method, selection)
        found = MethodData(
            adapted=adapted,
            adapters=_numel(method, selection, adapted),
            experts=experts,
            routers=routers,
            general=self._samples(arm, "replay", method.replay, problems),
            fisher=self._samples(arm, "ewc", method.ewc, problems),
            prompts=self._prompts(arm, problems),
            validation=self._validation(arm, problems),
        )
        problems.check()
        return found

    def _adapted(self, method: MethodSpec, selection: Selection) -> tuple[str, ...]:
        if method.lora is None:
            return ()
        skeleton = build_skeleton(load_config(*self.source))
        whole = [tensor.name for tensor in selection.tensors if tensor.slices is None]
        if found := tuple(adaptable(skeleton, whole)):
            return found
        fused = len(selection.tensors) - len(whole)
        raise InputError(
            f"{', '.join(selection.terms)} selects no matrix of a linear layer that an adapter "
            "could stand beside"
            + (f" ({fused} are parts of fused ones, which adapters cannot part)" if fused else "")
        )

    def _experts(self, method: MethodSpec, selection: Selection) -> tuple[Experts | None, int]:
        """The experts, and the size of their routers."""
        if method.moe is None:
            return None, 0
        skeleton = build_skeleton(load_config(*self.source))
        blocks = {one.name: block_of(skeleton, one.name) for one in selection.tensors}
        others = [
            one.name for one in selection.tensors if one.slices is not None or not blocks[one.name]
        ]
        if others:
            raise InputError(
                f"{', '.join(selection.terms)} selects {others[0]} ({len(others)} such), which is "
                "no whole layer of a plain MLP, and an expert is a copy of an MLP: select gate-up, "
                "mlp or down"
            )
        paths = tuple(dict.fromkeys(path for path in blocks.values() if path))
        return Experts(blocks=paths, top_k=method.moe.top_k), sum(
            2 * width_of(skeleton, path) for path in paths
        )

    def _samples(
        self, arm: ArmSpec, what: str, spec: ReplaySpec | EwcSpec | None, problems: Problems
    ) -> tuple[Encoded, ...]:
        if spec is None or spec.data is None:
            return ()
        with problems.collect(what):
            named = TaskSpec(name=f"{arm.name}-{what}", test=spec.data)
            return tuple(self.reader.read(named, spec.data, self.teach, limit=None))
        return ()

    def _prompts(self, arm: ArmSpec, problems: Problems) -> tuple[Example, ...]:
        spec = arm.method.kl_anchor
        if spec is None:
            return ()

        def fitting(rows: list[Example]) -> list[Example]:
            for row in rows:
                encode_prompt(row, self.processing)
            return rows

        with problems.collect("kl-anchor"):
            named = TaskSpec(name=f"{arm.name}-kl-anchor", test=spec.data)
            return tuple(self.reader.read(named, spec.data, fitting, limit=spec.limit))
        return ()

    def _validation(self, arm: ArmSpec, problems: Problems) -> tuple[PreparedTask, ...]:
        tasks: list[PreparedTask] = []
        for task in arm.method.wise_ft.validation if arm.method.wise_ft else ():
            with problems.collect(f"wise-ft validation {task.name}"):
                named = task.model_copy(update={"name": f"{arm.name}-wise-ft-{task.name}"})

                def prepared(rows: list[Example], spec: TaskSpec = task) -> PreparedTask:
                    return self.judge(spec, rows)

                tasks.append(self.reader.read(named, task.test, prepared, limit=task.limit))
        return tuple(tasks)


def method_notes(arm: ArmSpec, selection: Selection, data: MethodData, first: str) -> list[str]:
    """What a careful user wants to know of an arm's methods beforehand.

    Args:
        arm: The arm.
        selection: What it selects.
        data: What its methods read.
        first: The first stage's name.
    """
    notes = []
    if left := len(selection.tensors) - len(data.adapted) if arm.method.lora else 0:
        notes.append(
            f"lora adapts {len(data.adapted)} matrices; the other {left} selected tensors (norms, "
            "biases, embeddings, tied or fused ones) stay as they are"
        )
    if data.experts is not None:
        notes.append(
            f"moe puts a copy and a router beside {len(data.experts.blocks)} MLPs; no class of "
            "transformers loads such a model, so its deltas are kept and no model folder is written"
        )
    for name, spec, own in (
        ("replay", arm.method.replay, data.general),
        ("ewc", arm.method.ewc, data.fisher),
    ):
        if spec is not None and not own:
            notes.append(f"{name} has nothing to go by in stage {first}: no stage comes before it")
    return notes


def check_drift(method: MethodSpec, drift: DriftSpec | None) -> None:
    """Refuse two hands on one lever.

    Raises:
        InputError: Both the method and the drift budget move the weights between a stage's ends.
    """
    if method.wise_ft and drift is not None and drift.action in ("interpolate", "penalise"):
        raise InputError(
            f"wise-ft and drift action {drift.action} both choose a share of what a stage changed; "
            "take one of them, or drift with action report or stop"
        )


def _numel(method: MethodSpec, selection: Selection, adapted: Sequence[str]) -> int:
    if method.lora is None:
        return 0
    shape, shapes = (
        Rank(**method.lora.model_dump()),
        {tensor.name: tensor.shape for tensor in selection.anatomy.parameters},
    )
    return sum(shape.numel(*shapes[name]) for name in adapted)
