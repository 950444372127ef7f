"""Ray Serve's statuses, from facts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from headrace.config.spec import DeploymentStatus
from headrace.controller.history import History
from headrace.controller.reconcile import Verdict
from headrace.controller.status import Change, Facts, application_status, deployment_status, last_lines

NEW = Facts(target=2, running=0, serving=0, failure_limit=6, verdict=Verdict.CONVERGING, history=History())
UP = replace(NEW, running=2, serving=2, verdict=Verdict.SETTLED, in_transition=False, history=History(settled=True))

STATUSES = {"UPDATING", "HEALTHY", "UNHEALTHY", "DEPLOY_FAILED", "UPSCALING", "DOWNSCALING"}
TRIGGERS = {
    "AUTOSCALING",
    "UNSPECIFIED",
    "CONFIG_UPDATE_STARTED",
    "CONFIG_UPDATE_COMPLETED",
    "UPSCALE_COMPLETED",
    "DOWNSCALE_COMPLETED",
    "REPLICA_STARTUP_FAILED",
    "HEALTH_CHECK_FAILED",
    "DELETING",
}


def named(name: str, status: str, trigger: str = "CONFIG_UPDATE_STARTED", message: str = "") -> DeploymentStatus:
    return DeploymentStatus(
        name=name,
        status=status,
        status_trigger=trigger,
        message=message,
        replica_states={},
        target_num_replicas=1,
        options={},
    )


def test_a_new_deployment_is_updating_and_says_how_far() -> None:
    assert deployment_status(NEW) == ("UPDATING", "CONFIG_UPDATE_STARTED", "0 of 2 replicas running.")


def test_a_constructor_that_takes_long_is_told_of() -> None:
    assert deployment_status(replace(NEW, starting=("app#Model#abcde", 1.0, "")))[2] == "0 of 2 replicas running."
    message = deployment_status(replace(NEW, starting=("app#Model#abcde", 34.2, "")))[2]
    assert message == "0 of 2 replicas running. Replica app#Model#abcde has been in its constructor for 34 s."
    message = deployment_status(replace(NEW, starting=("app#Model#abcde", 1.0, "loading weights 40%")))[2]
    assert message == "0 of 2 replicas running. Replica app#Model#abcde: loading weights 40% (1 s)."


def test_a_deployment_that_is_up_is_healthy() -> None:
    assert deployment_status(UP) == ("HEALTHY", "CONFIG_UPDATE_COMPLETED", "")
    assert deployment_status(replace(UP, change=Change.UPSCALE))[1] == "UPSCALE_COMPLETED"
    assert deployment_status(replace(UP, recovered=True))[1] == "UNSPECIFIED"


def test_a_lost_replica_makes_it_unhealthy_with_the_reason() -> None:
    lost = replace(UP, running=1, serving=1, verdict=Verdict.CONVERGING)
    history = History(settled=True, last_failure="its process 7 was killed by SIGKILL")
    status, trigger, message = deployment_status(replace(lost, history=history))
    assert (status, trigger) == ("UNHEALTHY", "HEALTH_CHECK_FAILED")
    assert message.startswith("1 of 2 replicas running. A replica was lost") and "killed by SIGKILL" in message


def test_a_crash_loop_is_said_to_be_one_with_the_time_of_the_next_try() -> None:
    looping = replace(UP, running=0, verdict=Verdict.BACKING_OFF, retry_in_s=8.0)
    message = deployment_status(replace(looping, history=History(settled=True, crashes=6, last_failure="boom")))[2]
    assert "keep dying soon after they start (6 in a row). Next try in 8.0 s." in message and "boom" in message


def test_the_first_failed_constructor_shows_at_once() -> None:
    message = deployment_status(replace(NEW, history=History(start_failures=1, last_failure="ValueError: no")))[2]
    assert "5 more tries before giving up" in message and "ValueError: no" in message


def test_what_is_given_up_has_failed_with_the_reason() -> None:
    halted = replace(NEW, verdict=Verdict.HALTED, history=History(start_failures=6, last_failure="ValueError: no"))
    status, trigger, message = deployment_status(halted)
    assert (status, trigger) == ("DEPLOY_FAILED", "REPLICA_STARTUP_FAILED")
    assert "6 failed starts" in message and "ValueError: no" in message
    assert "keep serving" in deployment_status(replace(halted, serving=2))[2]


def test_long_tracebacks_are_cut_to_their_end() -> None:
    text = "\n".join(f"line {i}" for i in range(100))
    assert last_lines(text, 2) == "…\nline 98\nline 99"
    assert last_lines("one\ntwo", 2) == "one\ntwo"


def test_an_application_is_as_bad_as_its_worst_deployment() -> None:
    healthy = named("a", "HEALTHY")
    assert application_status([healthy], False, None) == ("RUNNING", "")
    assert application_status([healthy, named("b", "UPDATING")], False, None)[0] == "DEPLOYING"
    assert application_status([healthy, named("b", "UPSCALING")], False, None)[0] == "DEPLOYING"
    assert application_status([healthy, named("b", "UPSCALING", "AUTOSCALING")], False, None)[0] == "RUNNING"
    worst = [named("b", "UNHEALTHY"), named("c", "DEPLOY_FAILED", message="why")]
    assert application_status(worst, False, None) == ("DEPLOY_FAILED", "Deployment 'c': why")
    assert application_status(worst, True, None) == ("DELETING", "")


def test_an_application_that_is_being_built_is_deploying_or_says_why_not() -> None:
    assert application_status([], False, "")[0] == "DEPLOYING"
    assert application_status([], False, "no module named 'x'") == ("DEPLOY_FAILED", "no module named 'x'")


@given(
    st.builds(
        Facts,
        target=st.integers(0, 9),
        running=st.integers(0, 9),
        serving=st.integers(0, 9),
        failure_limit=st.integers(1, 20),
        verdict=st.sampled_from(Verdict),
        history=st.builds(
            History,
            start_failures=st.integers(0, 30),
            crashes=st.integers(0, 30),
            last_failure=st.text(max_size=10),
            settled=st.booleans(),
            never=st.one_of(st.none(), st.just("it needs 2 GPUs")),
        ),
        change=st.sampled_from(Change),
        in_transition=st.booleans(),
        recovered=st.booleans(),
        deleting=st.booleans(),
        waiting_for=st.one_of(st.none(), st.just("GPUs")),
        retry_in_s=st.one_of(st.none(), st.floats(-1, 30)),
    )
)
def test_every_state_has_a_status_that_ray_serve_knows(facts: Facts) -> None:
    status, trigger, message = deployment_status(facts)
    assert status in STATUSES and trigger in TRIGGERS
    if status == "DEPLOY_FAILED" or (facts.waiting_for and status == "UPDATING" and not facts.deleting):
        assert message
