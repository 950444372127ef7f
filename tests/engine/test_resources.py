from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.engine.allocator import Allocator
from headrace.engine.amounts import PARTS
from headrace.engine.machine import detect_machine
from headrace.engine.resources import Allocation, Gang, Machine, Refusal, ResourceRequest
from headrace.exceptions import StartupError


def machine(num_gpus: int = 0, **options: Any) -> Machine:
    return Machine(**{"num_cpus": 4, "gpus": [str(i) for i in range(num_gpus)], "memory": 1000} | options)


def granted(answer: Allocation | Refusal) -> Allocation:
    assert isinstance(answer, Allocation), answer
    return answer


def refused(answer: Allocation | Refusal, kind: str) -> str:
    assert isinstance(answer, Refusal), answer
    assert answer.kind == kind
    return answer.reason


def test_a_gpu_is_assigned_once_and_named_in_the_environment() -> None:
    allocator = Allocator(machine(2))
    first = granted(allocator.allocate("a", ResourceRequest(num_gpus=1)))
    second = granted(allocator.allocate("b", ResourceRequest(num_gpus=1)))
    assert [first.gpu_indices, second.gpu_indices] == [[0], [1]]
    assert second.env == {"CUDA_VISIBLE_DEVICES": "1"}
    reason = refused(allocator.allocate("c", ResourceRequest(num_gpus=1)), "not_now")
    assert reason == "it needs a whole GPU, 0 of 2 are free (held by a, b)"


def test_the_environment_names_gpus_as_this_process_sees_them() -> None:
    allocator = Allocator(machine(gpus=["GPU-abc", "5"]))
    allocation = granted(allocator.allocate("a", ResourceRequest(num_gpus=2)))
    assert allocation.env == {"CUDA_VISIBLE_DEVICES": "GPU-abc,5"}


def test_fractions_share_one_gpu_before_they_break_the_next() -> None:
    allocator = Allocator(machine(2))
    shares = [granted(allocator.allocate(str(i), ResourceRequest(num_gpus=0.25))).gpu_indices for i in range(4)]
    assert shares == [[0]] * 4
    assert granted(allocator.allocate("whole", ResourceRequest(num_gpus=1))).gpu_indices == [1]


def test_ten_tenths_are_one_gpu() -> None:
    allocator = Allocator(machine(1))
    for i in range(10):
        granted(allocator.allocate(str(i), ResourceRequest(num_gpus=0.1)))
    reason = refused(allocator.allocate("more", ResourceRequest(num_gpus=0.1)), "not_now")
    assert "at most 0 of one is free" in reason


def test_a_process_without_gpus_has_its_environment_left_alone() -> None:
    assert granted(Allocator(machine(1)).allocate("a", ResourceRequest())).env == {}


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (ResourceRequest(num_gpus=4), "it needs 4 GPUs, this machine has 1"),
        (ResourceRequest(num_gpus=1.5), "num_gpus=1.5 is neither a fraction of one GPU (0 to 1) nor a whole number"),
        (ResourceRequest(num_gpus=0.00001), "less than the smallest share"),
        (ResourceRequest(memory=2000), "it needs 2000 bytes of memory, this machine has 1000 bytes"),
        (ResourceRequest(resources={"licence": 3}), "it needs 3 of the resource 'licence', this machine has 2"),
        (ResourceRequest(resources={"license": 1}), "this machine has none (did you mean 'licence'?)"),
        (ResourceRequest(resources={"tpu": 1}), "custom resources are declared when the instance starts"),
        (ResourceRequest(num_cpus=-1), "a negative amount"),
    ],
)
def test_what_can_never_fit_is_refused_with_the_reason(request_: ResourceRequest, reason: str) -> None:
    allocator = Allocator(machine(1, resources={"licence": 2.0}))
    assert reason in refused(allocator.allocate("a", request_), "never")


def test_a_machine_without_gpus_says_so() -> None:
    reason = refused(Allocator(machine()).allocate("a", ResourceRequest(num_gpus=0.5)), "never")
    assert reason == "it needs 0.5 GPUs, this machine has none"


def test_memory_and_custom_resources_are_held_until_released() -> None:
    allocator = Allocator(machine(resources={"licence": 1.0}))
    granted(allocator.allocate("a", ResourceRequest(memory=600, resources={"licence": 1})))
    assert "400 bytes of 1000 bytes" in refused(allocator.allocate("b", ResourceRequest(memory=500)), "not_now")
    assert "0 of 1 are free" in refused(allocator.allocate("c", ResourceRequest(resources={"licence": 1})), "not_now")
    allocator.release("a")
    granted(allocator.allocate("b", ResourceRequest(memory=500)))
    granted(allocator.allocate("c", ResourceRequest(resources={"licence": 1})))


def test_cpus_are_a_hint_with_one_warning() -> None:
    allocator = Allocator(machine(num_cpus=2))
    warnings = [granted(allocator.allocate(f"a#{i}", ResourceRequest(num_cpus=1))).warning for i in range(5)]
    assert [warning is None for warning in warnings] == [True, True, False, True, True]
    assert warnings[2] == "replicas ask for 3 CPUs together, this machine has 2: they share them"


def test_asking_again_gives_the_same_and_asking_for_another_amount_is_a_mistake() -> None:
    allocator = Allocator(machine(2))
    first = allocator.allocate("a", ResourceRequest(num_gpus=1))
    assert allocator.allocate("a", ResourceRequest(num_gpus=1)) == first
    with pytest.raises(ValueError, match="release them first"):
        allocator.allocate("a", ResourceRequest(num_gpus=2))


GPU = {"GPU": 1.0}


def test_bundles_are_set_aside_together_on_one_machine() -> None:
    allocator = Allocator(machine(3, resources={"licence": 2.0}))
    wanted = ResourceRequest(num_cpus=1, bundles=[{"CPU": 1.0, **GPU}, {**GPU, "memory": 400, "licence": 1.0}])
    allocation = granted(allocator.allocate("a", wanted))
    assert allocation.env == {"CUDA_VISIBLE_DEVICES": "0,1"}
    reason = refused(allocator.allocate("b", ResourceRequest(bundles=[GPU, GPU])), "not_now")
    assert reason == "its 2 bundles need 2 whole GPUs, 1 of 3 are free (held by a)"
    assert "600 bytes of 1000 bytes" in refused(allocator.allocate("b", ResourceRequest(memory=700)), "not_now")
    allocator.release("a")
    everything = ResourceRequest(bundles=[GPU, GPU, {**GPU, "memory": 1000, "licence": 2}])
    assert granted(allocator.allocate("b", everything)).gpu_indices == [0, 1, 2]


def test_fractions_in_bundles_share_a_gpu_as_those_of_replicas_do() -> None:
    allocator = Allocator(machine(2))
    halves = granted(allocator.allocate("a", ResourceRequest(bundles=[{"GPU": 0.5}, {"GPU": 0.5}])))
    assert (halves.gpu_indices, halves.gpu_parts) == ([0], [PARTS])
    mixed = ResourceRequest(bundles=[{"GPU": 0.5}, GPU])
    assert refused(allocator.allocate("b", mixed), "not_now").startswith("its 2 bundles need 0.5, 1 of a GPU")
    allocator.release("a")
    assert granted(allocator.allocate("b", mixed)).env == {"CUDA_VISIBLE_DEVICES": "0,1"}


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (
            ResourceRequest(bundles=[GPU, GPU], strategy="STRICT_SPREAD"),
            "STRICT_SPREAD puts each of its 2 bundles on a machine of its own, and there is one machine; use 'PACK'",
        ),
        (ResourceRequest(bundles=[GPU, {"GPU": 2.0}]), "its 2 bundles need 3 GPUs, this machine has 2"),
        (ResourceRequest(bundles=[GPU, {"GPU": 1.5}]), "bundle 2 of 2: GPU=1.5 is neither a fraction"),
        (
            ResourceRequest(num_gpus=1, gang=Gang(id="g", size=3, index=0)),
            "the 3 replicas of its gang need 3 GPUs, this machine has 2",
        ),
        (ResourceRequest(accelerator_type="A100"), "it needs an accelerator A100, this machine has H100"),
        (ResourceRequest(bundles=[{**GPU, "accelerator_type:A100": 0.001}]), "it needs an accelerator A100"),
        (
            ResourceRequest(label_selector={"zone": "a"}),
            "it needs a machine with the label zone=a, this machine has zone=b",
        ),
        (
            ResourceRequest(bundles=[GPU, GPU], bundle_label_selectors=[{}, {"zone": "!b"}]),
            "bundle 2 of 2 needs a machine with the label zone=!b",
        ),
    ],
)
def test_what_one_machine_can_never_give_is_refused(request_: ResourceRequest, reason: str) -> None:
    there = machine(2, accelerator_type="H100", labels={"zone": "b"})
    assert reason in refused(Allocator(there).allocate("a", request_), "never")


def test_a_kind_of_accelerator_is_believed_where_it_is_not_known() -> None:
    wanted = ResourceRequest(num_gpus=1, accelerator_type="A100")
    granted(Allocator(machine(1)).allocate("a", wanted))
    assert "this machine has no GPU" in refused(Allocator(machine()).allocate("a", wanted), "never")


def test_labels_that_a_fallback_names_will_do() -> None:
    wanted = ResourceRequest(label_selector={"zone": "a"}, fallback_strategy=[{"label_selector": {"zone": "in(b,c)"}}])
    granted(Allocator(machine(labels={"zone": "b"})).allocate("a", wanted))
    refused(Allocator(machine(labels={"zone": "d"})).allocate("a", wanted), "never")


def test_no_more_replicas_of_a_deployment_than_one_machine_may_run() -> None:
    allocator = Allocator(machine())
    wanted = ResourceRequest(num_cpus=1, max_per_node=2, group="app#Model")
    for name in ("a", "b"):
        granted(allocator.allocate(name, wanted))
    reason = refused(allocator.allocate("c", wanted), "not_now")
    assert reason == "this machine runs 2 replicas of it already (max_replicas_per_node=2)"
    granted(allocator.allocate("other", ResourceRequest(max_per_node=2, group="app#Other")))


def test_the_first_of_a_gang_is_refused_where_there_is_not_enough_for_all() -> None:
    allocator = Allocator(machine(3))
    granted(allocator.allocate("other", ResourceRequest(num_gpus=1)))
    members = [ResourceRequest(num_gpus=1, gang=Gang(id="g", size=3, index=index)) for index in range(3)]
    reason = refused(allocator.allocate("m0", members[0]), "not_now")
    assert reason == "the 3 replicas of its gang need 3 whole GPUs, 2 of 3 are free (held by other)"
    allocator.release("other")
    held = [granted(allocator.allocate(f"m{index}", member)) for index, member in enumerate(members)]
    assert [allocation.gpu_indices for allocation in held] == [[0], [1], [2]]


amounts = st.one_of(st.integers(0, 4).map(float), st.integers(1, 20).map(lambda n: n / 20))
requests = st.builds(
    ResourceRequest,
    num_cpus=amounts,
    num_gpus=amounts,
    memory=st.integers(0, 600),
    resources=st.dictionaries(st.sampled_from(["licence", "slot"]), amounts, max_size=2),
)
bundled = st.builds(
    lambda bundles: ResourceRequest(bundles=[b for b in bundles if any(b.values())] or [{"CPU": 1.0}]),
    st.lists(st.fixed_dictionaries({"GPU": amounts, "licence": amounts}), min_size=1, max_size=3),
)
steps = st.lists(st.tuples(st.integers(0, 8).map(str), st.one_of(st.none(), requests)), max_size=40)


@given(steps)
def test_nothing_is_ever_given_out_twice_and_all_of_it_comes_back(
    steps: list[tuple[str, ResourceRequest | None]],
) -> None:
    there = machine(3, resources={"licence": 2.0, "slot": 0.5})
    allocator = Allocator(there)
    for name, request in steps:
        if request is None or name in allocator.held:
            allocator.release(name)
        else:
            allocator.allocate(name, request)
        held = allocator.held.values()
        for index in range(3):
            shares = [min(1.0, a.request.num_gpus) for a in held if index in a.gpu_indices]
            assert sum(round(share * PARTS) for share in shares) <= PARTS
            assert len(shares) == 1 or all(share < 1 for share in shares)
        assert sum(a.request.memory or 0 for a in held) <= there.memory
        for resource, total in there.resources.items():
            assert sum(round(a.request.resources.get(resource, 0) * PARTS) for a in held) <= total * PARTS
    for name in list(allocator.held):
        allocator.release(name)
    everything = ResourceRequest(num_gpus=3, memory=1000, resources={"licence": 2, "slot": 0.5})
    assert granted(allocator.allocate("all", everything)).gpu_indices == [0, 1, 2]


@given(st.lists(st.tuples(st.integers(0, 8).map(str), st.one_of(st.none(), requests, bundled)), max_size=30))
def test_bundles_are_never_given_out_twice_either(steps: list[tuple[str, ResourceRequest | None]]) -> None:
    there = machine(3, resources={"licence": 2.0, "slot": 0.5})
    allocator = Allocator(there)
    for name, request in steps:
        if request is None or name in allocator.held:
            allocator.release(name)
        else:
            allocator.allocate(name, request)
        held = list(allocator.held.values())
        for index in range(3):
            used = [a.gpu_parts[a.gpu_indices.index(index)] for a in held if index in a.gpu_indices]
            assert sum(used) <= PARTS
        for allocation in held:
            asked = allocation.request.bundles or [{"GPU": allocation.request.num_gpus}]
            assert sum(allocation.gpu_parts) == sum(round(bundle.get("GPU", 0.0) * PARTS) for bundle in asked)
    for name in list(allocator.held):
        allocator.release(name)
    everything = ResourceRequest(num_gpus=3, memory=1000, resources={"licence": 2, "slot": 0.5})
    assert granted(allocator.allocate("all", everything)).gpu_indices == [0, 1, 2]


@given(requests)
def test_only_what_an_empty_machine_refuses_is_refused_for_ever(request: ResourceRequest) -> None:
    answer = Allocator(machine(3, resources={"licence": 2.0})).allocate("a", request)
    assert isinstance(answer, Allocation) or answer.kind == "never"


@given(steps)
def test_a_new_allocator_goes_on_where_the_old_one_was(steps: list[tuple[str, ResourceRequest | None]]) -> None:
    there = machine(3, resources={"licence": 2.0, "slot": 0.5})
    old, new = Allocator(there), Allocator(there)
    for name, request in steps:
        if request is None:
            old.release(name)
        elif name not in old.held:
            old.allocate(name, request)
    for name, allocation in old.held.items():
        new.restore(name, allocation)
    for request in (ResourceRequest(num_gpus=1), ResourceRequest(num_gpus=0.5), ResourceRequest(memory=300)):
        assert isinstance(old.allocate("next", request), Allocation) == isinstance(
            new.allocate("next", request), Allocation
        )
        old.release("next")
        new.release("next")


@pytest.mark.parametrize(
    ("visible", "told", "gpus"),
    [("2,3", None, ["2", "3"]), ("2,3", "1", ["2"]), ("", None, []), ("-1", None, []), (None, "2", ["0", "1"])],
)
def test_gpus_are_those_that_this_process_may_see(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, told: str | None, gpus: list[str]
) -> None:
    for name, value in (("CUDA_VISIBLE_DEVICES", visible), ("HEADRACE_NUM_GPUS", told)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    assert detect_machine().gpus == gpus


def test_the_machine_is_found_with_cpus_and_memory_and_what_one_was_told() -> None:
    found = detect_machine(num_gpus=0, resources={"licence": 1})
    assert found.num_cpus >= 1
    assert found.memory > 1 << 28
    assert found.resources == {"licence": 1}
    assert detect_machine(num_cpus=7, num_gpus=0, memory=5) == Machine(num_cpus=7, memory=5)


def test_a_wrong_number_of_gpus_in_the_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_NUM_GPUS", "two")
    with pytest.raises(StartupError, match="HEADRACE_NUM_GPUS must be a whole number of GPUs, not 'two'"):
        detect_machine()


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA A100-SXM4-40GB", "A100"),
        ("Tesla V100-SXM2-16GB", "V100"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA RTX A6000", "RTX-A6000"),
        ("NVIDIA GeForce RTX 4090", "GeForce-RTX-4090"),
    ],
)
def test_the_kind_of_gpus_is_called_as_ray_calls_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, kind: str
) -> None:
    (tmp_path / "0000:1b:00.0").mkdir()
    (tmp_path / "0000:1b:00.0" / "information").write_text(f"Model: \t\t {model}\nIRQ:   \t\t 0\n")
    monkeypatch.setattr("headrace.engine.machine._NVIDIA_GPUS", tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("HEADRACE_NUM_GPUS", raising=False)
    machine = detect_machine()
    assert (machine.gpus, machine.accelerator_type) == (["0"], kind)
    assert machine.labels == {"ray.io/accelerator-type": kind}
    assert detect_machine(num_gpus=0).accelerator_type is None
